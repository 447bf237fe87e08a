/** The search for an image: its bucket and crop, or why it has none, and when it is served. */

import { get } from "./api.js";
import { duration, enc, h, newId, num, percent, plural, runLink, section, setText, size, svg } from "./dom.js";
import { tiles } from "./tiles.js";

const LEFT_OUT = {
  not_drawn: "It is served less than once per epoch, and not in this one.",
  small_bucket: "Its bucket has fewer images than a unit, and this tails policy never serves it.",
  tail: "It is in the remainder of its bucket, which does not fill a unit in this epoch.",
  last_step: "It is in the batches that do not fill a last step of all ranks.",
};
const LEFT_OUT_OF_PACKS = { ...LEFT_OUT, tail: "This epoch's packs have no slot for it." };
const PRUNED = {
  valid_ids: "it is not among the run's valid_ids",
  max_ar_error: "its aspect ratio differs from the nearest bucket's by max_ar_error or more",
  max_crop_loss: "more than max_crop_loss of it would be cropped away",
  min_size: "its shorter side has fewer pixels than min_size",
};
const PRUNED_OF_PACKS = {
  ...PRUNED,
  max_ar_error: "its aspect ratio differs from that of its size in whole steps by max_ar_error or more",
  bucket_no_upscale: "it is less than a step of the ladder on a side, and no image is scaled up",
};

export function search(run) {
  const [id_field, map_field, epoch_field] = [newId("image"), newId("map"), newId("epoch")];
  const field = h("input", { id: id_field, type: "search", autocomplete: "off", spellcheck: "false", required: true });
  const epoch = h("input", { id: epoch_field, type: "number", min: 0, step: 1, placeholder: "current" });
  const map = h("select", { id: map_field });
  const of_map = h("div", { class: "field", hidden: true }, h("label", { for: map_field }, "Map"), map);
  const result = h("div", { class: "result", "aria-live": "polite" });
  const left = h("p", { class: "soon" });
  const form = h(
    "form", { class: "search", role: "search", onsubmit: submit },
    h("div", { class: "field grow" }, h("label", { for: id_field }, "Image id"), field),
    of_map,
    h("div", { class: "field" }, h("label", { for: epoch_field }, "Epoch"), epoch),
    h("button", { type: "submit", class: "primary" }, "Find"),
  );
  const element = section("Find an image", form, result, left);
  let present = null;
  let ranks = [];
  let turn = 0;
  let found = null;
  let wanted_map = "";

  function submit(event) {
    event.preventDefault();
    const id = field.value.trim();
    if (!id) return;
    const given = Object.entries({ epoch: epoch.value, map: map.value }).filter(([, value]) => value !== "");
    const query = given.length ? `?${new URLSearchParams(given)}` : "";
    const address = `${runLink(run)}/images/${enc(id)}${query}`;
    // the same search again is sent again
    if (location.hash === address) find({ id, query: new URLSearchParams(query) });
    else location.hash = address;
  }

  async function find({ id, query }) {
    const mine = ++turn;
    found = null;
    setText(left, "");
    if (!id) {
      result.replaceChildren();
      return;
    }
    field.value = id;
    epoch.value = query.get("epoch") ?? "";
    wanted_map = query.get("map") ?? "";
    map.value = wanted_map;
    const asked = query.toString();
    try {
      const about = await get(`v1/runs/${enc(run)}/images/${enc(id)}${asked ? `?${asked}` : ""}`);
      if (mine !== turn) return;
      found = about;
      result.replaceChildren(...answer(id, about));
      setText(left, soon(found, present, ranks));
    } catch (error) {
      if (mine !== turn || error.status === 401) return;
      result.replaceChildren(h("h3", {}, `Image ${id}`), h("p", { class: "wrong" }, error.message));
    }
  }

  return {
    element,
    find,
    /** The run's maps: where there are several, an id may be in more than one. */
    maps(names) {
      of_map.hidden = names.length < 2;
      map.replaceChildren(h("option", { value: "" }, "any"), ...names.map((name) => h("option", { value: name }, name)));
      map.value = wanted_map;
    },
    progress(at, found_ranks) {
      [present, ranks] = [at, found_ranks];
      setText(left, soon(found, present, ranks));
    },
  };
}

/** `id` as it was entered: JavaScript cannot read numbers past 2^53 exactly. */
function answer(id, about) {
  const { nearest } = about;
  const facts = tiles();
  const is_in = about.pruned === null;
  facts.update([["Image", size(about.width, about.height), `aspect ${about.aspect.toFixed(3)}, map ${about.map}`]]);
  // in packs an image may be too small or too long for any size
  if (nearest) facts.update(fit(about, nearest, is_in));
  return [
    h("h3", {}, `Image ${id}`),
    h("ul", { class: "verdict" }, verdict(about).map((line) => h("li", {}, line))),
    h("div", { class: "fit" }, nearest ? picture(about) : null, facts.element),
  ];
}

const isOfPacks = ({ nearest }) => !nearest || "length" in nearest;

function fit(about, nearest, is_in) {
  const error = `aspect error ${nearest.aspect_error.toFixed(3)}`;
  return [
    isOfPacks(about)
      ? [is_in ? "Size" : "Size it would have", size(nearest.width, nearest.height), `length ${num(nearest.length)}, ${error}`]
      : [is_in ? "Bucket" : "Nearest bucket", size(nearest.width, nearest.height), `number ${nearest.bucket}, ${error}`],
    ["Scaled to", size(nearest.resize_width, nearest.resize_height), `then cropped at ${nearest.crop_left}, ${nearest.crop_top}`],
    [is_in ? "Crop loss" : "Would lose", percent(nearest.crop_loss), "of the image is cropped away"],
  ];
}

function verdict(about) {
  const [pruned, left_out] = isOfPacks(about) ? [PRUNED_OF_PACKS, LEFT_OUT_OF_PACKS] : [PRUNED, LEFT_OUT];
  if (about.pruned) return [`Pruned: ${pruned[about.pruned] ?? about.pruned}. It is served in no epoch.`];
  const lines = about.served.map((coming) => come(about, coming));
  if (about.left_out) lines.push(`${about.served.length ? "Served less often than requested" : `Not served in epoch ${about.epoch}`}. ${left_out[about.left_out] ?? about.left_out}`);
  return lines.length ? lines : [`Not served in epoch ${about.epoch}.`];
}

function come(about, coming) {
  if ("kind" in coming) return comeInPack(about, coming);
  const where = coming.bucket === about.bucket ? "" : ` at ${size(coming.width, coming.height)}, in a neighbouring bucket, because it is in the remainder of its own`;
  const again = coming.repeat ? " again, to fill a remainder" : "";
  if (coming.step === null) return `At position ${num(coming.position)} of epoch ${about.epoch}${where}${again}, which belongs to no step of the current ranks.`;
  return `Served in epoch ${about.epoch} at step ${num(coming.step)} on rank ${coming.rank}, image ${coming.slot} of its batch${where}${again}.`;
}

function comeInPack({ epoch }, { kind, length, position, rank, slot, step }) {
  const pack = `a pack of kind ${kind}, in a slot of ${num(length)} tokens`;
  if (step === null) return `At position ${num(position)} of epoch ${epoch} in ${pack}, which belongs to no step of the current ranks.`;
  return `Served in epoch ${epoch} at step ${num(step)} on rank ${rank}, image ${slot} of ${pack}.`;
}

/** How far away it is from the rank's cursor; empty in another epoch. */
function soon(about, present, ranks) {
  const coming = about?.served.find((each) => each.step !== null);
  if (!coming) return "";
  const rank = ranks[coming.rank];
  if (!rank || rank.epoch < about.epoch) return "";
  if (rank.epoch > about.epoch || coming.step < rank.step) return `Rank ${rank.rank} has passed it.`;
  const left = coming.step - rank.step;
  const time = present?.per_s > 0 ? `, in about ${duration(left / present.per_s)}` : "";
  return left ? `That is ${plural(left, "step")} ahead of rank ${rank.rank}${time}.` : `Rank ${rank.rank} is there now.`;
}

/** The scaled image, and the part of it that is kept. */
function picture({ nearest }) {
  const { resize_width, resize_height, crop_left, crop_top, width, height } = nearest;
  const most = Math.max(resize_width, resize_height);
  const line = most / 150;
  return svg(
    "svg", {
      viewBox: `${-line} ${-line} ${resize_width + 2 * line} ${resize_height + 2 * line}`, class: "crop", role: "img",
      "aria-label": `${size(width, height)} of the scaled ${size(resize_width, resize_height)} is kept`,
    },
    svg("rect", { class: "cut", width: resize_width, height: resize_height }),
    svg("rect", { class: "kept", x: crop_left, y: crop_top, width, height, "stroke-width": line }),
  );
}
