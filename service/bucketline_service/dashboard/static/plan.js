/** What the plan of a run holds and costs: charts, and the same numbers as tables. */

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
    columns: [{ name: "Of all images", ...text((row) => row[0]) }, { name: caption, ...number((row) => digits(row[1])) }],
  });

export function plan(element, path) {
  const facts = tiles();
  const images = bucketTable("Buckets", [
    { name: "Aspect", ...number((row) => row.aspect.toFixed(2)) },
    { name: "Images", ...number((row) => num(row.num_images)) },
    { name: "Batch size", ...number((row) => num(row.batch_size)) },
    { name: "Batches an epoch", ...number((row) => num(row.num_batches)) },
  ], "Filter buckets");
  const losses = bucketTable("Crop loss by bucket", [
    { name: "Mean", ...number((row) => percent(row.crop_loss?.mean)) },
    { name: "As served", ...number((row) => percent(row.crop_loss_served)) },
    { name: "Worst image", ...number((row) => percent(row.crop_loss?.max)) },
  ]);
  const tails = bucketTable("Tails", [
    { name: "In the tail", ...number((row) => num(row.tail.num_images)) },
    { name: "Served in a neighbour", ...number((row) => num(spilled(row))) },
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
    figure("Buckets", "Images of each bucket, and its batches in an epoch; width × height · aspect", `${path}/figures/buckets`, images.element, "tall wide"),
    figure("Crop loss", "The share of an image that is cut away, from the least cropped to the most", `${path}/figures/crop_loss`, crop.element),
    figure("Aspect error", "Difference of the image's aspect and its bucket's", `${path}/figures/aspect_error`, aspect.element),
    figure("Crop loss by bucket", "On average, as served with what spills over, and of the worst image", `${path}/figures/bucket_crop_loss`, losses.element),
    figure("Tails", "Images that fill no last unit of their bucket, and what becomes of them", `${path}/figures/tails`, tails.element),
    figure("Pruned", "Images in no bucket, by reason", `${path}/figures/pruned`, pruned.element, "low wide"),
  ];
  element.append(h("h2", { class: "part" }, "The plan"), facts.element, h("div", { class: "grid" }, drawn.map((each) => each.element)));

  return {
    /** Whether all of it could be had. */
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

const spread = ({ mean, median, p95, max }) => [["mean", mean], ["half, at most", median], ["95 %, at most", p95], ["all, at most", max]];

function summary(stats) {
  const num_pruned = Object.values(stats.pruned).reduce((sum, each) => sum + each, 0);
  const of_all = stats.num_images ? percent(num_pruned / stats.num_images) : "–";
  return [
    ["Images", num(stats.num_images), num_pruned ? `${num(num_pruned)} pruned (${of_all})` : "none pruned"],
    ["Batches an epoch", num(stats.num_batches), `${num(stats.num_steps)} steps`],
    ["Shapes", num(stats.num_shapes), `largest ${size(stats.largest_shape.width, stats.largest_shape.height)}`],
    ["Crop loss", percent(stats.crop_loss_served), "mean, as served"],
    ["Left out an epoch", num(stats.dropped), stats.never_served ? `${num(stats.never_served)} never served` : "others each epoch", stats.never_served ? "bad" : ""],
    ["Repeated an epoch", num(stats.repeated), "to fill tails"],
  ];
}
