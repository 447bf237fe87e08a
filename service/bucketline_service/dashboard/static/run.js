/** The page of one run: progress, ranks, images that could not be used, plan, events, and the search for an image. */

import { get, poll } from "./api.js";
import { empty, enc, h, mapLink, num, percent, plural, setText, when } from "./dom.js";
import { events } from "./events.js";
import { search } from "./image.js";
import { plan } from "./plan.js";
import { describe, maps_of, showProgress, showStatus } from "./progress.js";
import { ranksCard, slowest } from "./ranks.js";
import { reports } from "./reports.js";
import { tiles } from "./tiles.js";
import { warningList } from "./warnings.js";

const WARNINGS = "Warnings about the plan";

export function runView(main, name) {
  document.title = `${name} · bucketline`;
  const path = `v1/runs/${enc(name)}`;
  const pill = h("span");
  const of_maps = h("p", { class: "quiet" });
  const line = h("div", { class: "runline" });
  const note = h("p", { class: "note", role: "status" });
  const gone = h("div", { class: "card", hidden: true });
  const advice = h("section", { class: "card", hidden: true, "aria-label": WARNINGS });
  const facts = tiles();
  const ranks = ranksCard();
  const images = search(name);
  const reported = reports(name);
  const events_card = events(name);
  const planned = h("div", { class: "stack" });
  const spec = h("pre", { class: "command", tabindex: "0" });
  const body = h(
    "div", { class: "stack" },
    line, note, advice, facts.element, images.element, ranks.element, reported.element, planned, events_card.element,
    h("details", { class: "card" }, h("summary", {}, "Spec, with every default"), spec),
  );
  main.append(
    h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Overview"), " / Runs"),
    h("div", { class: "title" }, h("h1", {}, name), pill, of_maps),
    gone,
    body,
  );

  let charts;
  let is_packed = null; // of the charts
  let drawn = "";
  let advised = "";
  let put_at = null;

  function show(is_there, why) {
    gone.hidden = is_there;
    for (const element of [body, pill, of_maps]) element.hidden = !is_there;
    if (!is_there) gone.replaceChildren(empty(h("h2", {}, "No such run"), why));
  }

  /** A run may be deleted and put again, as another one, while the page is open. */
  function introduce(about) {
    if (put_at === about.created_at) return;
    put_at = about.created_at;
    const links = maps_of(about).flatMap((map) => [", ", h("a", { href: mapLink(map) }, map)]);
    of_maps.replaceChildren("map ", ...links.slice(1));
    spec.textContent = JSON.stringify(about.spec, null, 2);
    images.maps(maps_of(about));
  }

  /** Drawn again only where it differs, so that a selection in it stays. */
  function advise(warnings) {
    const told = JSON.stringify(warnings);
    if (told === advised) return;
    advised = told;
    advice.hidden = !warnings.length;
    advice.replaceChildren(h("h2", {}, WARNINGS), warningList(warnings, WARNINGS));
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
    const found = is_ready ? (await get(`${path}/ranks`, { signal })).ranks : [];
    const slow = found.length ? slowest(found) : null;
    const at = describe(about);
    showStatus(pill, at);
    showProgress(line, at);
    const [message, tone] = remark(at, found);
    setText(note, message);
    note.dataset.tone = tone;
    note.hidden = !message;
    advise(about.warnings ?? []);
    for (const element of [facts.element, images.element, ranks.element, planned]) element.hidden = !is_ready;
    facts.update(summary(at, found, slow));
    images.progress(at, found);
    if (is_ready) {
      ranks.update(found, at.is_over);
      const shape = [about.fingerprint, about.generation, about.state.epoch].join(" ");
      if (shape !== drawn) {
        drawn = shape;
        // a run that is put again under its name may be of the other sort
        if (is_packed !== Boolean(about.spec.pack)) {
          is_packed = Boolean(about.spec.pack);
          planned.replaceChildren();
          charts = plan(planned, path, is_packed);
        }
        // what failed is requested again with the next refresh
        charts.refresh().then((is_whole) => { if (!is_whole && drawn === shape) drawn = ""; });
      }
    }
    await reported.refresh(signal);
    await events_card.refresh(signal);
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

/** What needs attention, and how bad it is. */
function remark({ about }, ranks) {
  if (about.status === "failed") return [`The plan could not be built: ${about.detail}`, "bad"];
  if (about.status !== "ready") return ["The plan is being built. Charts and ranks appear when it is ready.", ""];
  const stuck = ranks[about.epoch_progress?.stuck_rank];
  if (!stuck) return ["", ""];
  if (stuck.holder === null) return [`Rank ${stuck.rank} is stuck: it has no worker, while other ranks are ahead.`, "bad"];
  return [`Rank ${stuck.rank} is stuck, while other ranks are ahead: last seen at ${when(stuck.last_seen)}, held by ${stuck.holder}.`, "bad"];
}

function summary(at, ranks, slow) {
  const { about, is_over, seen } = at;
  const is_active = at.state === "running" || at.state === "waiting";
  const held = ranks.filter((rank) => rank.holder !== null).length;
  return [
    ["Epoch", at.epoch, `${percent(at.share, 0)} done`],
    ["Steps per second", at.rate, is_over ? "" : is_active ? "of the slowest rank, since its start" : `last seen: ${seen}`],
    ["Time left", at.left, "in this epoch"],
    ["Ranks", num(about.world_size), ranks.length ? `${num(held)} held` : ""],
    slow
      ? ["Largest lag", plural(slow.steps_behind, "step"), slow.steps_behind ? `rank ${slow.rank}` : held ? "all ranks at the same step" : "", slow.steps_behind > 100 ? "bad" : ""]
      : ["Largest lag", "–"],
    ["Generation", num(about.generation), about.session ? `session ${about.session}` : "no session yet"],
  ];
}

