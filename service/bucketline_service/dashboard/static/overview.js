/** All runs and maps, and what happened last. */

import { get, poll } from "./api.js";
import { command, empty, h, mapLink, num, runLink, section } from "./dom.js";
import { events } from "./events.js";
import { maps_of, showProgress, showStatus, standing } from "./progress.js";
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
      { name: "Progress of the epoch", wide: true, show: showProgress },
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
      { name: "Samples an epoch", ...number((row) => num(row.num_repeats ? row.num_repeats.total : row.num_images)) },
      { name: "Ids", ...text((row) => (row.id_kind === "int64" ? "numbers" : "strings")) },
      { name: "Digest", ...text((row) => row.digest.slice(0, 12)) },
    ],
  });
}

const ORDER = ["failed", "waiting", "planning", "running", "ready", "finished"];

const last = ({ state, about }) => (state === "ready" && about.last_seen) || about.created_at;

/** What happens now comes first, then what was trained or put last. */
const ordered = (runs) => runs.toSorted((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || last(b) - last(a));

const NO_MAP = () =>
  empty(
    h("h3", {}, "No map yet"),
    "A map is the list of your images: id, width and height of each. Upload one:",
    command("bucketline map put my-images images.csv"),
    "bucketline scan writes such a file from folders, shards and web data sets.",
  );

const NO_RUN = (map) =>
  empty(
    h("h3", {}, "No run yet"),
    "A run is one training job over a map. Open one:",
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
    const [told_runs, told_maps] = await Promise.all([get("v1/runs", { signal }), get("v1/maps", { signal })]);
    if (told_maps.maps.length) put(mapsCard, "maps", () => maps.element);
    else put(mapsCard, "none", NO_MAP);
    if (told_runs.runs.length) put(runsCard, "runs", () => runs.element);
    else put(runsCard, `none ${told_maps.maps[0]?.map ?? ""}`, () => NO_RUN(told_maps.maps[0]?.map ?? "my-images"));
    maps.update(told_maps.maps);
    runs.update(ordered(told_runs.runs.map((about) => standing(about))));
    await happened.refresh(signal);
  });
}
