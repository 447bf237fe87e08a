/** The overview: all runs, all maps, and the latest events. */

import { get, poll } from "./api.js";
import { command, empty, h, mapLink, num, runLink, section } from "./dom.js";
import { events } from "./events.js";
import { describe, maps_of, showProgress, showStatus } from "./progress.js";
import { number, showLink, table, text } from "./table.js";

function runsTable() {
  return table({
    caption: "Runs",
    filter: "Filter runs",
    what: "run",
    page_size: 20,
    key: (row) => row.about.run,
    columns: [
      { name: "Run", text: (row) => row.about.run, show: (cell, row) => showLink(cell, row.about.run, runLink(row.about.run)) },
      { name: "Status", text: (row) => row.label, show: showStatus },
      { name: "Epoch progress", wide: true, show: showProgress },
      { name: "Epoch", ...number((row) => row.epoch) },
      { name: "Steps/s", ...number((row) => row.rate) },
      { name: "Time left", ...number((row) => row.left) },
      { name: "Last seen", ...number((row) => row.seen) },
      { name: "Ranks", ...number((row) => num(row.about.world_size)) },
      { name: "Generation", ...number((row) => num(row.about.generation)) },
      { name: "Map", ...text((row) => maps_of(row.about).join(", ")) },
    ],
  });
}

function mapsTable() {
  return table({
    caption: "Maps",
    filter: "Filter maps",
    what: "map",
    key: (row) => row.map,
    columns: [
      { name: "Map", text: (row) => row.map, show: (cell, row) => showLink(cell, row.map, mapLink(row.map)) },
      { name: "Images", ...number((row) => num(row.num_images)) },
      { name: "Samples per epoch", ...number((row) => num(row.num_repeats ? row.num_repeats.total : row.num_images)) },
      { name: "Ids", ...text((row) => (row.id_kind === "int64" ? "numbers" : "strings")) },
      { name: "Digest", ...text((row) => row.digest.slice(0, 12)) },
    ],
  });
}

const ORDER = ["failed", "waiting", "planning", "running", "ready", "finished"];

const last = ({ state, about }) => (state === "ready" && about.last_seen) || about.created_at;

/** Runs that need attention or are active come first, then the most recent ones. */
const ordered = (runs) => runs.toSorted((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || last(b) - last(a));

const NO_MAP = () =>
  empty(
    h("h3", {}, "No map yet"),
    "A map lists your images: the id, width and height of each. Upload one:",
    command("bucketline map put my-images images.csv"),
    "bucketline scan creates such a file from folders, tar shards and web data sets.",
  );

const NO_RUN = (map) =>
  empty(
    h("h3", {}, "No run yet"),
    "A run is one training job over a map. Create one:",
    command(`bucketline run put my-run --map ${map} --world-size 4 --batch-size 8`),
  );

export function overview(main) {
  document.title = "Overview · bucketline";
  const runs = runsTable();
  const maps = mapsTable();
  const happened = events();
  const runsCard = section("Runs", h("p", { class: "quiet" }, "Loading…"));
  const mapsCard = section("Maps", h("p", { class: "quiet" }, "Loading…"));
  main.append(h("h1", {}, "Overview"), runsCard, mapsCard, happened.element);

  const put = (card, name, make) => {
    if (card.dataset.shows === name) return;
    card.dataset.shows = name;
    card.replaceChildren(card.firstElementChild, make());
  };

  return poll(async (signal) => {
    const [found_runs, found_maps] = await Promise.all([get("v1/runs", { signal }), get("v1/maps", { signal })]);
    if (found_maps.maps.length) put(mapsCard, "maps", () => maps.element);
    else put(mapsCard, "none", NO_MAP);
    if (found_runs.runs.length) put(runsCard, "runs", () => runs.element);
    else put(runsCard, `none ${found_maps.maps[0]?.map ?? ""}`, () => NO_RUN(found_maps.maps[0]?.map ?? "my-images"));
    maps.update(found_maps.maps);
    runs.update(ordered(found_runs.runs.map(describe)));
    await happened.refresh(signal);
  });
}
