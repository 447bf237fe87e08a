/** How fast runs go, as this page sees it: over the last minute, of the slowest rank. */

const WINDOW_S = 60;
const LEAST_S = 3;
const by_run = new Map();

/** Steps a second of a run that stands where `about` says; null while that is not known yet. */
export function rate(about, at_s) {
  const { epoch, step } = about.state;
  let samples = by_run.get(about.run) ?? [];
  const last = samples.at(-1);
  let done = 0;
  if (last) {
    const moved = epoch === last.epoch ? step - last.step : epoch === last.epoch + 1 ? last.num_steps - last.step + step : -1;
    const same = last.generation === about.generation && last.created_at === about.created_at;
    if (!same || moved < 0) samples = [];
    else done = last.done + moved;
  }
  const { generation, created_at, num_steps } = about;
  samples.push({ at_s, done, epoch, step, num_steps, generation, created_at });
  while (samples.length > 2 && samples[1].at_s < at_s - WINDOW_S) samples.shift();
  by_run.set(about.run, samples);
  const took_s = at_s - samples[0].at_s;
  return took_s >= LEAST_S ? (done - samples[0].done) / took_s : null;
}
