/** The plan of a run: its buckets or packs and its costs as charts, and the same numbers as tables. */

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

/**
 * What the page of a plan of buckets has that one of packs has not, and `ofPacks` the reverse. `summary`, `rest`: tiles;
 * `first`, `more`: [title, what it shows, figure, table, class] of charts; `update` fills their tables.
 */
function ofBuckets() {
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
  return {
    summary: (stats) => [
      ["Batches per epoch", num(stats.num_batches), `${num(stats.num_steps)} steps`],
      ["Shapes", num(stats.num_shapes), `largest ${size(stats.largest_shape.width, stats.largest_shape.height)}`],
    ],
    rest: (stats) => [["Repeated per epoch", num(stats.repeated), "to fill remainders"]],
    first: [["Buckets", "Images and batches per epoch of each bucket; width × height · aspect ratio", "buckets", images, "tall wide"]],
    more: [
      ["Crop loss by bucket", "The mean, the mean as served including images from neighbours, and the worst image", "bucket_crop_loss", losses],
      ["Remainders", "Images that fill no whole batch of their bucket, and what happens to them", "tails", tails],
    ],
    of_aspect: "that of its bucket",
    update(stats) {
      for (const each of [images, losses, tails]) each.update(stats.buckets);
    },
  };
}

function ofPacks() {
  const lengths = table({
    caption: "Lengths", what: "length", key: (row) => row.length,
    columns: [
      { name: "Tokens", ...text((row) => num(row.length)) },
      { name: "Images", ...number((row) => num(row.num_images)) },
      { name: "Slots per epoch", ...number((row) => num(row.num_slots)) },
      { name: "Images served, in the mean", ...number((row) => num(row.num_served)) },
    ],
  });
  const kinds = table({
    caption: "Kinds of pack", what: "kind", key: (row) => row.kind,
    columns: [
      { name: "Kind", ...text((row) => row.kind) },
      { name: "Packs per epoch", ...number((row) => num(row.num_packs)) },
      { name: "Images", ...number((row) => num(row.num_images)) },
      { name: "Tokens", ...number((row) => num(row.num_tokens)) },
      { name: "Slots", wide: true, ...text((row) => row.slots.map((each) => `${num(each.num_slots)} of ${num(each.length)}`).join(", ")) },
    ],
  });
  return {
    summary: ({ packs, num_batches, num_steps }) => [
      ["Packs per epoch", num(num_batches), `${num(num_steps)} steps`],
      ["Kinds of pack", num(packs.num_kinds), `of at most ${num(packs.max_tokens)} tokens`],
      ["Full", percent(packs.full), `${percent(packs.padding)} padding, ${percent(packs.unused)} unused`],
    ],
    rest: ({ packs }) => [["Imbalance in attention", packs.attention_imbalance.toFixed(3), `in tokens ${packs.token_imbalance.toFixed(3)}`]],
    first: [
      ["Lengths", "Images and slots per epoch of each length; a shorter image may stand in a longer slot", "lengths", lengths, "wide"],
      ["Kinds of pack", "How many packs of each kind an epoch has, and which slots a pack consists of: the longer, the stronger the colour", "pack_kinds", kinds, "tall wide"],
    ],
    more: [],
    of_aspect: "that of its size in a pack",
    update({ packs }) {
      lengths.update(packs.lengths);
      kinds.update(packs.kinds);
    },
  };
}

export function plan(element, path, is_packed) {
  const facts = tiles();
  const parts = is_packed ? ofPacks() : ofBuckets();
  const crop = quantileTable("Crop loss", (value) => percent(value, 2));
  const aspect = quantileTable("Aspect error", few);
  const pruned = table({
    caption: "Pruned images by reason", what: "reason", key: (row) => row[0],
    columns: [{ name: "Reason", ...text((row) => row[0]) }, { name: "Images", ...number((row) => num(row[1])) }],
  });

  const drawn = [
    ...parts.first,
    ["Crop loss", "The share of an image that is cropped away, from the least cropped to the most", "crop_loss", crop],
    ["Aspect error", `Difference between the aspect ratio of an image and ${parts.of_aspect}`, "aspect_error", aspect],
    ...parts.more,
    ["Pruned images", `Images in no ${is_packed ? "pack" : "bucket"}, by reason`, "pruned", pruned, "low wide"],
  ].map(([title, about, name, numbers, tall]) => figure(title, about, `${path}/figures/${name}`, numbers.element, tall));
  element.append(h("h2", { class: "part" }, "The plan"), facts.element, h("div", { class: "grid" }, drawn.map((each) => each.element)));

  return {
    /** Whether everything could be loaded. */
    async refresh() {
      const charts = Promise.all(drawn.map((each) => each.redraw()));
      const stats = await get(`${path}/stats`).catch(() => null);
      if (!stats) return false;
      facts.update(summary(stats, parts));
      parts.update(stats);
      crop.update(spread(stats.crop_loss));
      aspect.update(spread(stats.aspect_error));
      pruned.update(Object.entries(stats.pruned));
      return (await charts).every(Boolean);
    },
  };
}

const spread = ({ mean, median, p95, max }) => [["mean", mean], ["median", median], ["95th percentile", p95], ["maximum", max]];

function summary(stats, parts) {
  const num_pruned = Object.values(stats.pruned).reduce((sum, each) => sum + each, 0);
  const of_all = stats.num_images ? percent(num_pruned / stats.num_images) : "–";
  return [
    ["Images", num(stats.num_images), num_pruned ? `${num(num_pruned)} pruned (${of_all})` : "none pruned"],
    ...parts.summary(stats),
    ["Crop loss", percent(stats.crop_loss_served), "mean, as served"],
    ["Left out per epoch", num(stats.dropped), stats.never_served ? `${num(stats.never_served)} never served` : "different ones each epoch", stats.never_served ? "bad" : ""],
    ...parts.rest(stats),
  ];
}
