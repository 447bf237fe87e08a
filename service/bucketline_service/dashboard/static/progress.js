/** Where a run stands: shared by the list of runs and the page of one. */

import { now_s } from "./api.js";
import { duration, few, h, num, percent, setText } from "./dom.js";
import { rate } from "./rate.js";

const STATUS = { planning: "Planning", ready: "Ready", failed: "Failed", running: "Running", finished: "Finished" };

/** `mean`: steps a second where the page has not seen enough itself. */
export function standing(about, mean = null) {
  const is_ready = about.status === "ready";
  const is_over = is_ready && about.num_steps === 0;
  const per_s = is_ready && !is_over ? (rate(about, now_s()) ?? mean) : null;
  const state = is_over ? "finished" : per_s > 0 ? "running" : about.status;
  const share = is_over ? 1 : is_ready ? about.state.step / about.num_steps : about.progress;
  const left = is_ready && !is_over ? about.num_steps - about.state.step : 0;
  return {
    about,
    state,
    share,
    per_s,
    label: STATUS[state],
    steps: is_over ? "all epochs done" : is_ready ? `${num(about.state.step)} / ${num(about.num_steps)}` : about.progress === null ? "–" : percent(about.progress, 0),
    epoch: is_ready ? num(about.state.epoch) : "–",
    rate: per_s === null ? "–" : few(per_s),
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

export const maps_of = ({ spec }) => (spec.maps ? spec.maps.map((each) => each.map) : [spec.map]);
