/** How fast runs go, as this page sees it: over the last minute, or the last few steps where these take longer. */

const WINDOW_S = 60;
const FEW_STEPS = 5;
const LEAST_S = 3;
const by_run = new Map();

/** Steps a second of a run that stands where `about` says; null while that is not known yet, 0 where it stands still. */
export function rate(about, at_s) {
  const { epoch, step } = about.state;
  const { generation, created_at, num_steps } = about;
  let samples = by_run.get(about.run) ?? [];
  const last = samples.at(-1);
  let moved = -1;
  if (last && last.generation === generation && last.created_at === created_at) {
    moved = epoch === last.epoch ? step - last.step : epoch === last.epoch + 1 ? last.num_steps - last.step + step : -1;
  }
  if (moved < 0) samples = [];
  const done = moved < 0 ? 0 : last.done + moved;
  // one of each place, from when it was first seen there
  if (moved) samples.push({ at_s, done, epoch, step, num_steps, generation, created_at });
  while (samples.length > 2 && samples[1].at_s < at_s - WINDOW_S && done - samples[1].done >= FEW_STEPS) samples.shift();
  by_run.set(about.run, samples);

  const [first, newest] = [samples[0], samples.at(-1)];
  const quiet_s = at_s - newest.at_s;
  if (first === newest) return quiet_s > WINDOW_S ? 0 : null;
  const step_s = (newest.at_s - first.at_s) / (done - first.done);
  if (quiet_s > Math.max(WINDOW_S, FEW_STEPS * step_s)) return 0;
  const took_s = at_s - first.at_s;
  return took_s >= LEAST_S ? (done - first.done) / took_s : null;
}
