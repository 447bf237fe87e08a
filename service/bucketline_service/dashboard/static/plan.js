/** The plan of a run: its buckets and costs as charts, and the same numbers as tables. */

import { get } from "./api.js";
import { figure } from "./charts.js";
import { few, h, num, percent, size } from "./dom.js";
import { number, table, text } from "./table.js";
import { tiles } from "./tiles.js";

const name_of = (row) => size(row.width, row.height) + (row.num_frames ? ` × ${row.num_frames} f` : "");
const of_bucket = { name: "Bucket", ...text((row) => `${row.bucket}: ${name_of(row)}`) };
const spilled = ({ tail }) => tail.spilled.reduce((sum, each) => sum + each.num_images, 0);

const bucketTable = (caption, columns, filter) =>
  table({ caption, what: "bucket", key: (row) => row.bucket, columns: [of_bucket, ...columns], filter });

const quantileTable = (caption, digits) =>
  table({
    caption, what: "value", key: (row) => row[0],
    columns: [{ name: "Statistic", ...text((row) => row[0]) }, { name: caption, ...number((row) => digits(row[1])) }],
  });

export function plan(element, path) {
  const facts = tiles();
  const images = bucketTable("Buckets", [
    { name: "Aspect", ...number((row) => row.aspect.toFixed(2)) },
    { name: "Images", ...number((row) => num(row.num_images)) },
    { name: "Batch size", ...number((row) => num(row.batch_size)) },
    { name: "Batches per epoch", ...number((row) => num(row.num_batches)) },
  ], "Filter buckets");
  const losses = bucketTable("Crop loss by bucket", [
    { name: "Mean", ...number((row) => percent(row.crop_loss?.mean)) },
    { name: "As served", ...number((row) => percent(row.crop_loss_served)) },
    { name: "Worst image", ...number((row) => percent(row.crop_loss?.max)) },
  ]);
  const tails = bucketTable("Remainders", [
    { name: "In the remainder", ...number((row) => num(row.tail.num_images)) },
    { name: "Served in a neighbouring bucket", ...number((row) => num(spilled(row))) },
    { name: "Left out", ...number((row) => num(row.tail.left_out)) },
    { name: "Never served", ...number((row) => num(row.tail.never_served)) },
    { name: "Repeated", ...number((row) => num(row.tail.repeated)) },
  ]);
  const crop = quantileTable("Crop loss", (value) => percent(value, 2));
  const aspect = quantileTable("Aspect error", few);
  const pruned = table({
    caption: "Pruned images by reason", what: "reason", key: (row) => row[0],
    columns: [{ name: "Reason", ...text((row) => row[0]) }, { name: "Images", ...number((row) => num(row[1])) }],
  });

  const drawn = [
    figure("Buckets", "Images and batches per epoch of each bucket; width × height · aspect ratio", `${path}/figures/buckets`, images.element, "tall wide"),
    figure("Crop loss", "The share of an image that is cropped away, from the least cropped to the most", `${path}/figures/crop_loss`, crop.element),
    figure("Aspect error", "Difference between the aspect ratio of an image and that of its bucket", `${path}/figures/aspect_error`, aspect.element),
    figure("Crop loss by bucket", "The mean, the mean as served including images from neighbours, and the worst image", `${path}/figures/bucket_crop_loss`, losses.element),
    figure("Remainders", "Images that fill no whole batch of their bucket, and what happens to them", `${path}/figures/tails`, tails.element),
    figure("Pruned images", "Images in no bucket, by reason", `${path}/figures/pruned`, pruned.element, "low wide"),
  ];
  element.append(h("h2", { class: "part" }, "The plan"), facts.element, h("div", { class: "grid" }, drawn.map((each) => each.element)));

  return {
    /** Whether everything could be loaded. */
    async refresh() {
      const charts = Promise.all(drawn.map((each) => each.redraw()));
      const stats = await get(`${path}/stats`).catch(() => null);
      if (!stats) return false;
      facts.update(summary(stats));
      for (const each of [images, losses, tails]) each.update(stats.buckets);
      crop.update(spread(stats.crop_loss));
      aspect.update(spread(stats.aspect_error));
      pruned.update(Object.entries(stats.pruned));
      return (await charts).every(Boolean);
    },
  };
}

const spread = ({ mean, median, p95, max }) => [["mean", mean], ["median", median], ["95th percentile", p95], ["maximum", max]];

function summary(stats) {
  const num_pruned = Object.values(stats.pruned).reduce((sum, each) => sum + each, 0);
  const of_all = stats.num_images ? percent(num_pruned / stats.num_images) : "–";
  return [
    ["Images", num(stats.num_images), num_pruned ? `${num(num_pruned)} pruned (${of_all})` : "none pruned"],
    ["Batches per epoch", num(stats.num_batches), `${num(stats.num_steps)} steps`],
    ["Shapes", num(stats.num_shapes), `largest ${size(stats.largest_shape.width, stats.largest_shape.height)}`],
    ["Crop loss", percent(stats.crop_loss_served), "mean, as served"],
    ["Left out per epoch", num(stats.dropped), stats.never_served ? `${num(stats.never_served)} never served` : "different ones each epoch", stats.never_served ? "bad" : ""],
    ["Repeated per epoch", num(stats.repeated), "to fill remainders"],
  ];
}
