/** The images of a run that workers could not use; hidden as long as there are none. */

import { get } from "./api.js";
import { command, enc, h, num, plural, runLink, section, setText, when } from "./dom.js";
import { number, showLink, table, text } from "./table.js";

const LIMIT = 100;

export function reports(run) {
  const of_image = (row) => `${runLink(run)}/images/${enc(row.id)}?map=${enc(row.map)}`;
  const list = table({
    caption: "Images that could not be used, the newest first",
    filter: "Filter by id, map, reason or detail",
    what: "image",
    page_size: 10,
    key: (row) => row.number,
    columns: [
      { name: "Image", text: (row) => String(row.id), show: (cell, row) => showLink(cell, row.id, of_image(row)) },
      { name: "Map", ...text((row) => row.map) },
      { name: "Reason", ...text((row) => row.reason.replaceAll("_", " ")) },
      { name: "Batches", ...number((row) => num(row.count)) },
      { name: "Last in", ...text(({ last }) => `epoch ${last.epoch}, step ${last.step}, rank ${last.rank}`) },
      { name: "Last reported", ...text((row) => when(row.last.at)) },
      { name: "Detail", wide: true, ...text((row) => row.detail ?? "") },
    ],
  });
  const summary = h("p");
  const all = h(
    "details", {}, h("summary", {}, "All of them, as a file"), command(`bucketline run reports ${run} -o bad.csv`),
  );
  const element = section("Images that could not be used", summary, list.element, all);
  element.hidden = true;

  return {
    element,
    async refresh(signal) {
      let found = { num_images: 0, num_not_kept: 0, reports: [] };
      try {
        found = await get(`v1/runs/${enc(run)}/reports?limit=${LIMIT}`, { signal });
      } catch (error) {
        // a replica of an older release has none
        if (error.status !== 404) throw error;
      }
      element.hidden = !found.num_images;
      const which = found.num_images > found.reports.length ? `, the newest ${num(found.reports.length)} of them below` : "";
      const others = found.num_not_kept ? ` ${plural(found.num_not_kept, "report")} of further images came after them.` : "";
      setText(summary, `Workers have reported ${plural(found.num_images, "image")}${which}.${others}`);
      list.update(found.reports.reverse());
    },
  };
}
