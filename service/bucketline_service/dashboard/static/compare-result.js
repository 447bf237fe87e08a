/** What the plans cost: chart, table, and the buckets or packs of each. */

import { show } from "./charts.js";
import { h, num, percent, plural } from "./dom.js";
import { warningList } from "./warnings.js";

function cell(value, is_best) {
  if (!is_best) return h("td", { class: "number" }, value ?? "–");
  return h("td", { class: "number best" }, value, h("span", { class: "mark", "aria-hidden": "true" }, "✓"), h("span", { class: "hidden" }, " best"));
}

function table(rows, names) {
  const head = h("tr", {}, h("td", {}), names.map((name) => h("th", { scope: "col", class: "number" }, name)));
  const body = rows.map((row) =>
    h(
      "tr", {},
      h("th", { scope: "row", class: `level-${row.level}`, title: row.help }, row.label),
      row.cells.map((value, index) => cell(value, row.best[index])),
    ),
  );
  return h(
    "div", { class: "scroll", role: "region", "aria-label": "Costs of each plan", tabindex: "0" },
    h("table", { class: "costs" }, h("caption", { class: "hidden" }, "Costs of each plan"), h("thead", {}, head), h("tbody", {}, body)),
  );
}

function words(rows) {
  return h(
    "details", {},
    h("summary", {}, "What the rows mean"),
    h("dl", { class: "words" }, rows.flatMap((row) => [h("dt", {}, row.label), h("dd", {}, row.help)])),
  );
}

function plot(figure, label, height_px) {
  const element = h("div", { class: "plot", role: "img", "aria-label": label });
  // set here because it depends on the number of plans
  if (height_px) element.style.height = `${height_px}px`;
  queueMicrotask(() => show(element, figure));
  return element;
}

/** Of the answer of POST /v1/previews?figure. */
export function result(answer, names) {
  const { rows, figure } = answer.comparison;
  const has_best = rows.some((row) => row.best.includes(true));
  const title = h("h2", { tabindex: "-1" }, "What they cost");
  const told = `${num(answer.num_images)} images, epoch 0.${has_best ? " ✓ is the best of its row." : ""}`;
  const label = "Crop loss, images not trained on, steps and shapes of each plan; the table has the numbers";
  const buckets = answer.previews.flatMap((each, index) => {
    if (!each.figure) return [];
    const { packs, num_shapes, buckets: all, num_steps } = each.stats;
    const parts = packs
      ? `${plural(packs.lengths.length, "length")}, ${plural(packs.num_kinds, "kind")} of pack, ${percent(packs.full)} full`
      : `${plural(all.length, "bucket")}, ${plural(num_shapes, "shape")}`;
    const about = `${parts}, ${plural(num_steps, "step")} an epoch`;
    const drawn = packs ? "Images and slots of each length" : "Images and batches of each bucket";
    return [
      h(
        "figure", { class: "card" },
        h("figcaption", {}, h("h3", {}, names[index]), h("p", { class: "quiet" }, about)),
        each.warnings.length ? warningList(each.warnings, `Warnings about ${names[index]}`) : null,
        plot(each.figure, `${drawn} of ${names[index]}`, 340),
      ),
    ];
  });
  const element = h(
    "div", { class: "stack" },
    h(
      "section", { class: "card" },
      title,
      h("p", { class: "quiet" }, told),
      plot(figure, label, figure.layout.height),
      table(rows, names),
      words(rows),
    ),
    h("h2", { class: "part" }, "Each plan"),
    h("div", { class: "grid" }, buckets),
  );
  return { element, focus: () => title.focus() };
}
