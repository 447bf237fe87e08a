/** Where a run stands: shared by the list of runs and the page of one. */

import { now_s } from "./api.js";
import { ago, duration, few, h, num, percent, setText } from "./dom.js";
import { rate } from "./rate.js";

const STATUS = { planning: "Planning", ready: "Ready", failed: "Failed", running: "Running", waiting: "Waiting", finished: "Finished" };

/** The share of the epoch's batches that are done: where it was begun on other ranks its steps are not of one length. */
function of_epoch({ state, num_steps, world_size }) {
  const left = (num_steps - state.step) * world_size;
  return state.offset + left > 0 ? state.offset / (state.offset + left) : 0;
}

const LIVE_S = 60;

/** `mean`: steps a second where the page has not seen enough itself. `is_stuck`: the slowest rank is known to be silent. */
export function standing(about, mean = null, is_stuck = false) {
  const is_ready = about.status === "ready";
  const is_over = is_ready && about.num_steps === 0;
  const per_s = is_ready && !is_over ? (rate(about, now_s()) ?? mean) : null;
  const quiet_s = about.last_seen ? Math.max(0, now_s() - about.last_seen) : null;
  const is_live = quiet_s !== null && quiet_s < LIVE_S;
  // heard of, but the slowest rank does not move
  const state = is_over ? "finished" : per_s > 0 || (is_live && per_s === null && !is_stuck) ? "running" : is_live ? "waiting" : about.status;
  const share = is_over ? 1 : is_ready ? of_epoch(about) : about.progress;
  const left = is_ready && !is_over ? about.num_steps - about.state.step : 0;
  return {
    about,
    state,
    share,
    per_s,
    label: STATUS[state],
    steps: is_over ? "all epochs done" : is_ready ? `${num(about.state.step)} / ${num(about.num_steps)}` : about.progress === null ? "–" : percent(about.progress, 0),
    is_over,
    epoch: is_ready ? num(about.state.epoch) : "–",
    rate: per_s === null ? "–" : few(per_s),
    is_live,
    quiet_s,
    seen: quiet_s === null ? (is_ready ? "never" : "–") : ago(quiet_s),
    left: per_s > 0 ? duration(left / per_s) : "–",
  };
}

export function showStatus(cell, { state, label }) {
  const pill = cell.firstElementChild ?? cell.appendChild(h("span", { class: "pill" }));
  setText(pill, label);
  pill.dataset.state = state;
}

export function showProgress(cell, { share, steps, about }) {
  if (!cell.firstElementChild) cell.append(h("progress", { max: 1 }), h("span", { class: "steps" }));
  const [bar, text] = cell.children;
  bar.value = share ?? 0;
  bar.setAttribute("aria-label", `${about.run}: of the ${about.status === "planning" ? "plan" : "epoch"}`);
  setText(text, steps);
}

/** None of a run whose record in the store is damaged. */
export const maps_of = ({ spec }) => (spec === null ? [] : spec.maps ? spec.maps.map((each) => each.map) : [spec.map]);
