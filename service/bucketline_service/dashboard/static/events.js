/** The table of events: sessions, fences, faults of the store. */

import { get } from "./api.js";
import { enc, few, h, num, runLink, section, when } from "./dom.js";
import { number, showLink, table, text } from "./table.js";

function field(name, value) {
  if (name.endsWith("_s")) return value === null ? "" : `${name.slice(0, -2).replaceAll("_", " ")} ${few(value)} s`;
  if (name === "digest") return `digest ${value.slice(0, 12)}`; // as in the list of maps
  return `${name.replaceAll("_", " ")} ${typeof value === "string" ? value : JSON.stringify(value)}`;
}

/** Events without a run are those of one coordinator process: which. */
function details({ fields, run, replica, pid }) {
  const all = Object.entries(fields ?? {}).map(([name, value]) => field(name, value));
  return [...all, run === null ? `by ${replica}, process ${pid}` : ""].filter(Boolean).join(" · ");
}

let is_there = true;

export function events(run) {
  const of_run = { name: "Run", text: (row) => row.run ?? "", show: (cell, row) => row.run && showLink(cell, row.run, runLink(row.run)) };
  const list = table({
    caption: "Events, newest first",
    what: "event",
    page_size: 10,
    key: (row) => row.id,
    columns: [
      { name: "Time", ...text((row) => when(row.at)) },
      { name: "Event", ...text((row) => row.event.replaceAll("_", " ") + (row.count > 1 ? `, ${num(row.count)} times` : "")) },
      ...(run ? [] : [of_run]),
      { name: "Rank", ...number((row) => num(row.rank)) },
      { name: "Details", wide: true, ...text(details) },
    ],
  });
  const none = h("p", { class: "quiet" }, "No events yet: no session has started, no lease was fenced, and the store had no faults.");
  list.element.hidden = true;
  const element = section("Events", none, list.element);

  return {
    element,
    async refresh(signal) {
      if (!is_there) return;
      let found = [];
      try {
        found = (await get(`v1/events?limit=100${run ? `&run=${enc(run)}` : ""}`, { signal })).events;
      } catch (error) {
        // a replica of an older release has none
        if (error.status !== 404) throw error;
        is_there = false;
      }
      none.hidden = found.length > 0;
      list.element.hidden = !found.length;
      list.update(found);
    },
  };
}
