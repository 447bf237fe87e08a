/** How a run's status and progress are shown: shared by the list of runs and the page of one. Draws only: the server
 * has worked out the share, the rate and the time left (`epoch_progress`). */

import { now_s } from "./api.js";
import { ago, duration, few, h, num, percent, setText } from "./dom.js";

const LABELS = { planning: "Planning", ready: "Ready", failed: "Failed", running: "Running", waiting: "Waiting", finished: "Finished" };

/** The texts of a run as `GET /v1/runs` answers it. `state`: its activity, else its status. */
export function describe(about) {
  const progress = about.epoch_progress;
  const state = progress && progress.activity !== "idle" ? progress.activity : about.status;
  const is_over = state === "finished";
  const share = progress ? progress.share : about.progress;
  const steps = progress ? `${num(about.state.step)} / ${num(about.num_steps)}` : share === null ? "–" : percent(share, 0);
  return {
    about,
    state,
    share,
    is_over,
    per_s: progress?.steps_per_s ?? null,
    label: LABELS[state],
    steps: is_over ? "all epochs done" : steps,
    epoch: progress ? num(about.state.epoch) : "–",
    rate: few(progress?.steps_per_s),
    left: duration(progress?.left_s),
    seen: about.last_seen ? ago(Math.max(0, now_s() - about.last_seen)) : progress ? "never" : "–",
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
  bar.setAttribute("aria-label", `${about.run}: progress of the ${about.status === "planning" ? "plan" : "epoch"}`);
  setText(text, steps);
}

/** Empty for a run whose record in the store is damaged. */
export const maps_of = ({ spec }) => (spec === null ? [] : spec.maps ? spec.maps.map((each) => each.map) : [spec.map]);
