/** One run: where it stands, its ranks, its plan, what happened to it, and the search for an image. */

import { get, now_s, poll } from "./api.js";
import { empty, enc, h, mapLink, num, percent, plural, setText, when } from "./dom.js";
import { events } from "./events.js";
import { search } from "./image.js";
import { plan } from "./plan.js";
import { maps_of, showProgress, showStatus, standing } from "./progress.js";
import { is_silent, ranksCard, slowest } from "./ranks.js";
import { tiles } from "./tiles.js";

export function runView(main, name) {
  document.title = `${name} · bucketline`;
  const path = `v1/runs/${enc(name)}`;
  const pill = h("span");
  const of_maps = h("p", { class: "quiet" });
  const line = h("div", { class: "runline" });
  const note = h("p", { class: "note", role: "status" });
  const gone = h("div", { class: "card", hidden: true });
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
    gone,
    body,
  );

  let charts;
  let drawn = "";
  let put_at = null;

  function show(is_there, why) {
    gone.hidden = is_there;
    for (const element of [body, pill, of_maps]) element.hidden = !is_there;
    if (!is_there) gone.replaceChildren(empty(h("h2", {}, "No such run"), why));
  }

  /** It may be deleted and put anew, as another one, while somebody looks. */
  function introduce(about) {
    if (put_at === about.created_at) return;
    put_at = about.created_at;
    const links = maps_of(about).flatMap((map) => [", ", h("a", { href: mapLink(map) }, map)]);
    of_maps.replaceChildren("over ", ...links.slice(1));
    spec.textContent = JSON.stringify(about.spec, null, 2);
    images.maps(maps_of(about));
  }

  async function turn(signal) {
    let about;
    try {
      about = await get(path, { signal });
    } catch (error) {
      if (error.status === 404) show(false, error.message);
      throw error;
    }
    show(true);
    introduce(about);
    const is_ready = about.status === "ready";
    const told = is_ready ? (await get(`${path}/ranks`, { signal })).ranks : [];
    const slow = told.length ? slowest(told) : null;
    const is_stuck = slow !== null && slow.steps_behind > 0 && (slow.holder === null || is_silent(slow, now_s()));
    const at = standing(about, slow && mean(slow), is_stuck);
    showStatus(pill, at);
    showProgress(line, at);
    const [said, tone] = remark(at, slow, is_stuck);
    setText(note, said);
    note.dataset.tone = tone;
    note.hidden = !said;
    for (const element of [facts.element, images.element, ranks.element, planned]) element.hidden = !is_ready;
    facts.update(summary(at, told, slow));
    images.standing(at, told);
    if (is_ready) {
      ranks.update(told, at.is_over);
      const shape = [about.fingerprint, about.generation, about.state.epoch].join(" ");
      if (shape !== drawn) {
        drawn = shape;
        charts ??= plan(planned, path);
        // what failed is asked for again with the next look
        charts.refresh().then((is_whole) => { if (!is_whole && drawn === shape) drawn = ""; });
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

/** Steps a second since the lease of a rank that still moves. */
function mean({ batches_per_s, last_seen }) {
  const quiet_s = now_s() - last_seen;
  return batches_per_s && quiet_s < Math.max(15, 5 / batches_per_s) ? batches_per_s : null;
}

/** What should not be overlooked, and how bad it is. */
function remark({ about, is_over, is_live }, slow, is_stuck) {
  if (about.status === "failed") return [`The plan could not be made: ${about.detail}`, "bad"];
  if (about.status !== "ready") return ["The plan is being built: charts and ranks come when it is ready.", ""];
  if (is_over || !is_live || !is_stuck) return ["", ""];
  if (slow.holder === null) return [`Rank ${slow.rank} has no worker, while others go on.`, "bad"];
  return [`Rank ${slow.rank} does not move, while others do: it was last heard of at ${when(slow.last_seen)}, and ${slow.holder} holds it.`, "bad"];
}

function summary(at, ranks, slow) {
  const { about, is_over, is_live, seen } = at;
  const held = ranks.filter((rank) => rank.holder !== null).length;
  return [
    ["Epoch", at.epoch, `${percent(at.share, 0)} done`],
    ["Steps a second", at.rate, is_over ? "" : is_live ? "of the slowest rank" : `last heard of: ${seen}`],
    ["Time left", at.left, "in this epoch"],
    ["Ranks", num(about.world_size), ranks.length ? `${num(held)} held` : ""],
    slow
      ? ["Largest lag", plural(slow.steps_behind, "step"), slow.steps_behind ? `rank ${slow.rank}` : held ? "all ranks together" : "", slow.steps_behind > 100 ? "bad" : ""]
      : ["Largest lag", "–"],
    ["Generation", num(about.generation), about.session ? `session ${about.session}` : "no session yet"],
  ];
}

