/** Every rank as a cell, the slowest first, and the same as a table that can be searched. */

import { now_s } from "./api.js";
import { ago, few, h, num, plural, section, setText } from "./dom.js";
import { number, table, text } from "./table.js";

const SILENT_S = 60;
const GAP_PX = 2;

// By how far a rank is behind; the last is for ranks without a worker.
const KINDS = [
  { name: "At the front", most: 0 },
  { name: "1 to 2 steps behind", most: 2 },
  { name: "3 to 10 behind", most: 10 },
  { name: "11 to 100 behind", most: 100 },
  { name: "Over 100 behind", most: Infinity },
  { name: "Not held" },
];

const kind = (rank) => (rank.holder === null ? 5 : KINDS.findIndex(({ most }) => rank.steps_behind <= most));
const age_s = (rank, now) => (rank.last_seen === null ? null : Math.max(0, now - rank.last_seen));
const is_silent = (rank, now) => rank.holder !== null && age_s(rank, now) > SILENT_S;

function state_of(rank, now, is_over) {
  if (rank.holder === null) return "not held";
  if (is_over) return "finished";
  if (is_silent(rank, now)) return "silent";
  return rank.steps_behind ? "behind" : "at the front";
}

/** The slowest first; of equals the one that was seen longest ago. */
function ordered(ranks) {
  const seen = (rank) => rank.last_seen ?? 0;
  return [...ranks].sort((a, b) => b.steps_behind - a.steps_behind || seen(a) - seen(b) || a.rank - b.rank);
}

/** `is_over`: the run is finished, so that silent ranks are expected. */
function ranksTable(is_over) {
  return table({
    caption: "Ranks, slowest first",
    filter: "Filter by rank, holder or state",
    what: "rank",
    page_size: 10,
    key: (row) => row.rank,
    columns: [
      { name: "Rank", ...text((row) => row.rank) },
      { name: "Steps behind", ...number((row) => num(row.steps_behind)) },
      { name: "State", ...text((row) => state_of(row, now_s(), is_over())) },
      { name: "Last seen", ...number((row) => (row.last_seen === null ? "never" : ago(age_s(row, now_s())))) },
      { name: "Holder", ...text((row) => row.holder ?? "–") },
      { name: "Epoch", ...number((row) => num(row.epoch)) },
      { name: "Step", ...number((row) => num(row.step)) },
      { name: "Batches/s", ...number((row) => few(row.batches_per_s)) },
    ],
  });
}

export function ranksCard() {
  const canvas = h("canvas", { role: "img" });
  const legend = h("ul", { class: "kinds" });
  const hint = h("p", { class: "quiet hint" }, "Point at a cell to see its rank.");
  let is_over = false;
  const list = ranksTable(() => is_over);
  const element = section("Ranks by lag", h("div", { class: "ranks" }, canvas), legend, hint, list.element);
  let shown = [];
  let columns = 1;
  let cell = 1;

  const entries = KINDS.map(({ name }, at) => {
    const text = h("span");
    const entry = h("li", {}, h("span", { class: "swatch", "data-kind": at }), text);
    legend.append(entry);
    return { name, entry, text };
  });
  const silent = h("li", {}, h("span", { class: "swatch", "data-kind": "silent" }), h("span"));
  legend.append(silent);

  function draw() {
    const width = canvas.parentElement.clientWidth;
    if (!width || !shown.length) return;
    const area = width * 190;
    cell = Math.min(34, Math.max(5, Math.floor(Math.sqrt(area / shown.length))));
    columns = Math.max(1, Math.floor(width / cell));
    const height = Math.ceil(shown.length / columns) * cell;
    const ratio = devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const colours = entries.map(({ entry }) => getComputedStyle(entry.firstElementChild).backgroundColor);
    const ink = getComputedStyle(element).color;
    const side = cell - (cell > 7 ? GAP_PX : 1);
    const now = now_s();
    shown.forEach((rank, at) => {
      const x = (at % columns) * cell;
      const y = Math.floor(at / columns) * cell;
      context.fillStyle = colours[kind(rank)];
      context.fillRect(x, y, side, side);
      if (is_over || !is_silent(rank, now)) return;
      context.strokeStyle = ink;
      context.lineWidth = cell > 12 ? 2 : 1;
      context.beginPath();
      context.moveTo(x, y + side);
      context.lineTo(x + side, y);
      context.stroke();
    });
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / cell);
    const rank = x < columns ? shown[Math.floor((event.clientY - box.top) / cell) * columns + x] : undefined;
    if (!rank) return;
    const seen = rank.last_seen === null ? "never seen" : `seen ${ago(age_s(rank, now_s()))}`;
    setText(hint, `Rank ${rank.rank}: ${plural(rank.steps_behind, "step")} behind, ${rank.holder === null ? "not held" : `held by ${rank.holder}`}, ${seen}`);
  }
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  const resized = new ResizeObserver(draw);
  resized.observe(canvas.parentElement);
  document.addEventListener("themechange", draw);

  return {
    element,
    end() {
      resized.disconnect();
      document.removeEventListener("themechange", draw);
    },
    update(ranks, is_done) {
      is_over = is_done;
      shown = ordered(ranks);
      const now = now_s();
      const counts = KINDS.map(() => 0);
      for (const rank of shown) counts[kind(rank)] += 1;
      entries.forEach(({ name, entry, text }, at) => {
        entry.hidden = !counts[at];
        setText(text, `${name}: ${plural(counts[at], "rank")}`);
      });
      const num_silent = is_over ? 0 : shown.filter((rank) => is_silent(rank, now)).length;
      silent.hidden = !num_silent;
      setText(silent.lastElementChild, `Silent for more than a minute: ${plural(num_silent, "rank")}`);
      const slowest = shown[0];
      canvas.setAttribute("aria-label", `${plural(shown.length, "rank")}, the slowest is ${slowest.rank}, ${plural(slowest.steps_behind, "step")} behind. The table below lists them all.`);
      draw();
      list.update(shown);
    },
  };
}

export const slowest = (ranks) => ordered(ranks)[0];
