/** The page of one map: how large its images are. */

import { get, poll, watch } from "./api.js";
import { figure } from "./charts.js";
import { empty, enc, few, h, num, size } from "./dom.js";
import { tiles } from "./tiles.js";
import { number, table, text } from "./table.js";

export function mapView(main, name) {
  document.title = `${name} · bucketline`;
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, "Loading…"));
  main.append(h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Overview"), " / Maps"), h("h1", {}, name), body);
  let end = () => {};
  // a map never changes, so that it is loaded once
  end = poll(async (signal) => {
    let about;
    try {
      about = await get(`v1/maps/${enc(name)}`, { signal });
    } catch (error) {
      if (error.status === 404) body.replaceChildren(empty(h("h2", {}, "No such map"), error.message));
      throw error;
    }
    show(body, name, about);
    end();
    end = watch();
  });
  return () => end();
}

function show(body, name, about) {
  const { width, height, aspect, size: sizes } = about.histogram;
  const numbers = table({
    caption: "Images by aspect ratio",
    what: "aspect",
    key: (row) => row.name,
    columns: [
      { name: "Aspect", ...text((row) => row.name) },
      { name: "Images", ...number((row) => num(row.num_images)) },
    ],
  });
  const sides = table({
    caption: "Images by size",
    filter: "Filter sizes",
    what: "size",
    key: (row) => `${row.width} ${row.height}`,
    columns: [
      { name: "Width, px", ...text((row) => row.width) },
      { name: "Height, px", ...text((row) => row.height) },
      { name: "Images", ...number((row) => num(row.num_images)) },
    ],
  });
  sides.update(by_size(sizes));
  numbers.update(by_aspect(aspect));
  const facts = tiles();
  facts.update([
    ["Images", num(about.num_images)],
    ["Samples per epoch", num(about.num_repeats?.total ?? about.num_images)],
    ["Smallest", size(width.min_px, height.min_px), "smallest width and smallest height, px"],
    ["Largest", size(width.max_px, height.max_px), "largest width and largest height, px"],
    ["Ids", about.id_kind === "int64" ? "numbers" : "strings"],
    ...(about.num_frames ? [["Frames", `${few(about.num_frames.min)} to ${few(about.num_frames.max)}`]] : []),
    ["Digest", about.digest.slice(0, 8), "of the content"],
  ]);
  body.replaceChildren(
    facts.element,
    h(
      "div", { class: "grid" },
      figure("Aspect ratios", "Number of images by width / height", `v1/maps/${enc(name)}/figures/aspects`, numbers.element).element,
      figure("Sizes", "Number of images by width and height", `v1/maps/${enc(name)}/figures/sizes`, sides.element).element,
    ),
  );
}

/** The first and the last bin hold all images that are narrower or wider. */
function by_aspect({ edges, num_images }) {
  const name = (at) => {
    if (!at) return `under ${edges[1].toFixed(2)}`;
    return at === num_images.length - 1 ? `${edges[at].toFixed(2)} and over` : `${edges[at].toFixed(2)} to ${edges[at + 1].toFixed(2)}`;
  };
  return num_images.map((count, at) => ({ name: name(at), num_images: count }));
}

/** The sizes that occur, the most frequent first. */
function by_size({ edges_px, num_images }) {
  const span = (at) => `${num(edges_px[at])} to ${num(edges_px[at + 1] - 1)}`;
  return num_images
    .flatMap((column, width) => column.map((count, height) => ({ width: span(width), height: span(height), num_images: count })))
    .filter((row) => row.num_images)
    .sort((a, b) => b.num_images - a.num_images);
}
