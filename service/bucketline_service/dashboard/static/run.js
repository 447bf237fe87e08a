/** One run: where it stands, its ranks, its plan, what happened to it, and the search for an image. */

import { get, now_s, poll } from "./api.js";
import { empty, enc, h, mapLink, num, percent, plural } from "./dom.js";
import { events } from "./events.js";
import { search } from "./image.js";
import { plan } from "./plan.js";
import { maps_of, showProgress, showStatus, standing } from "./progress.js";
import { ranksCard, slowest } from "./ranks.js";
import { tiles } from "./tiles.js";

export function runView(main, name) {
  document.title = `${name} · bucketline`;
  const path = `v1/runs/${enc(name)}`;
  const pill = h("span");
  const of_maps = h("p", { class: "quiet" });
  const line = h("div", { class: "runline" });
  const note = h("p", { class: "quiet" });
  const facts = tiles();
  const ranks = ranksCard();
  const images = search(name);
  const happened = events(name);
  const planned = h("div", { class: "stack" });
  const spec = h("pre", { class: "command", tabindex: "0" });
  const body = h(
    "div", { class: "stack" }, line, note, facts.element, images.element, ranks.element, planned, happened.element,
    h("details", { class: "card" }, h("summary", {}, "Spec, with every default"), spec),
  );
  main.append(
    h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Overview"), " / Runs"),
    h("div", { class: "title" }, h("h1", {}, name), pill, of_maps),
    body,
  );

  let charts;
  let drawn = "";

  async function turn(signal) {
    let about;
    try {
      about = await get(path, { signal });
    } catch (error) {
      if (error.status === 404) body.replaceChildren(empty(h("h2", {}, "No such run"), error.message));
      throw error;
    }
    const is_ready = about.status === "ready";
    const told = is_ready ? (await get(`${path}/ranks`, { signal })).ranks : [];
    const slow = told.length ? slowest(told) : null;
    const at = standing(about, slow?.batches_per_s ?? null);
    showStatus(pill, at);
    showProgress(line, at);
    note.textContent = about.status === "failed" ? `The plan could not be made: ${about.detail}` : is_ready ? "" : "The plan is being built: charts and ranks come when it is ready.";
    note.hidden = !note.textContent;
    for (const element of [images.element, ranks.element, planned]) element.hidden = !is_ready;
    facts.update(summary(at, told, slow));
    if (!of_maps.firstChild) {
      const links = maps_of(about).flatMap((map) => [", ", h("a", { href: mapLink(map) }, map)]);
      of_maps.append("over ", ...links.slice(1));
    }
    spec.textContent ||= JSON.stringify(about.spec, null, 2);
    images.standing(at, told);
    if (is_ready) {
      ranks.update(told);
      const shape = [about.fingerprint, about.generation, about.state.epoch].join(" ");
      if (shape !== drawn) {
        drawn = shape;
        charts ??= plan(planned, path);
        charts.refresh();
      }
    }
    await happened.refresh(signal);
  }

  const stop = poll(turn);
  return {
    end() {
      stop();
      ranks.end();
    },
    find: images.find,
  };
}

function summary(at, ranks, slow) {
  const { about } = at;
  const held = ranks.filter((rank) => rank.holder !== null).length;
  const seen = Math.max(0, ...ranks.map((rank) => rank.last_seen ?? 0));
  const quiet_s = seen ? now_s() - seen : 0;
  return [
    ["Epoch", at.epoch, `${percent(at.share, 0)} done`],
    ["Steps a second", at.rate, quiet_s > 60 ? "nothing heard for over a minute" : "of the slowest rank"],
    ["Time left", at.left, "in this epoch"],
    ["Ranks", num(about.world_size), ranks.length ? `${num(held)} held` : ""],
    slow
      ? ["Largest lag", plural(slow.steps_behind, "step"), slow.steps_behind ? `rank ${slow.rank}` : "all ranks together", slow.steps_behind > 100 ? "bad" : ""]
      : ["Largest lag", "–"],
    ["Generation", num(about.generation), about.session ? `session ${about.session}` : "no session yet"],
  ];
}

