/** A table whose rows can change in place: with a filter, pages, and a key for each row. */

import { h, newId, num, plural, setText } from "./dom.js";

/**
 * columns: [{name, number?, wide?, show(cell, row), text?(row)}]; the first is the row's heading. `filter`: the label of
 * the filter, which searches each column's `text`; none without it. `update(rows)` shows other rows, in their order.
 */
export function table({ caption, columns, key, filter, page_size = 20, what = "row" }) {
  const rows_by_key = new Map();
  let rows = [];
  let page = 0;

  const body = h("tbody");
  const head = h("tr", {}, columns.map(({ name, number }) => h("th", { scope: "col", class: number ? "number" : null }, name)));
  const count = h("p", { class: "quiet", role: "status" });
  const before = h("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const after = h("button", { type: "button", onclick: () => turn(1) }, "Next");
  const pages = h("div", { class: "pages" }, before, after);
  const id = newId("filter");
  const field = filter ? h("input", { id, type: "search", autocomplete: "off", oninput: () => { page = 0; draw(); } }) : null;
  const element = h(
    "div", { class: "table" },
    field ? h("div", { class: "filter" }, h("label", { for: id }, filter), field) : null,
    h(
      "div", { class: "scroll", role: "region", "aria-label": `${caption}, table`, tabindex: "0" },
      h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, head), body),
    ),
    h("div", { class: "foot" }, count, pages),
  );

  function turn(by) {
    page += by;
    draw();
    // the button may be disabled by now
    (by > 0 ? (after.disabled ? before : after) : before.disabled ? after : before).focus();
  }

  function found() {
    const wanted = field?.value.trim().toLowerCase();
    if (!wanted) return rows;
    const texts = columns.filter((column) => column.text);
    return rows.filter((row) => texts.some((column) => column.text(row).toLowerCase().includes(wanted)));
  }

  function draw() {
    const all = found();
    const last = Math.max(0, Math.ceil(all.length / page_size) - 1);
    page = Math.min(Math.max(page, 0), last);
    const shown = all.slice(page * page_size, (page + 1) * page_size);
    const keep = new Set(shown.map((row) => String(key(row))));
    for (const [name, tr] of rows_by_key) {
      if (!keep.has(name)) {
        tr.remove();
        rows_by_key.delete(name);
      }
    }
    shown.forEach((row, index) => {
      const name = String(key(row));
      let tr = rows_by_key.get(name);
      if (!tr) {
        tr = h("tr", {}, columns.map(({ number, wide }, at) => {
          const of_class = [number && "number", wide && "wide"].filter(Boolean).join(" ") || null;
          return h(at ? "td" : "th", { scope: at ? null : "row", class: of_class });
        }));
        rows_by_key.set(name, tr);
      }
      if (body.children[index] !== tr) body.insertBefore(tr, body.children[index] ?? null);
      columns.forEach((column, at) => column.show(tr.children[at], row));
    });
    const is_paged = all.length > page_size;
    pages.hidden = !is_paged;
    before.disabled = page === 0;
    after.disabled = page === last;
    const from = num(page * page_size + 1);
    const to = num(page * page_size + shown.length);
    const message = !all.length && rows.length ? `No ${what} of ${num(rows.length)} matches` : "";
    setText(count, message || (is_paged ? `${from} to ${to} of ${plural(all.length, what)}` : ""));
  }

  return {
    element,
    update(given) {
      rows = given;
      draw();
    },
  };
}

/** A column that is only text. */
export const text = (of) => ({ text: (row) => String(of(row)), show: (cell, row) => setText(cell, of(row)) });
export const number = (of) => ({ number: true, show: (cell, row) => setText(cell, of(row)) });

/** A link that stays the same element. */
export function showLink(cell, label, href) {
  const link = cell.firstElementChild ?? cell.appendChild(h("a"));
  setText(link, label);
  if (link.getAttribute("href") !== href) link.setAttribute("href", href);
}
