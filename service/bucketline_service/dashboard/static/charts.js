/** plotly's charts of the figures that the API returns; plotly is loaded with the first of them. */

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { theme } from "./theme.js";

let loading;

function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: new URL("plotly.min.js", import.meta.url).href });
    script.onload = () => resolve(globalThis.Plotly);
    script.onerror = () => {
      loading = undefined;
      script.remove();
      reject(new Error("plotly.js did not load"));
    };
    document.head.append(script);
  });
  return loading;
}

const OPTIONS = { displaylogo: false, responsive: true, displayModeBar: false, scrollZoom: false };

/** Draws a given figure in `element`, at the element's height. */
export async function show(element, figure) {
  const Plotly = await plotly();
  if (element.isConnected) await Plotly.react(element, figure.data, { ...figure.layout, autosize: true }, OPTIONS);
}

/**
 * Draws in `element` the figure that GET `path` returns, or POST where `path` is {path, body}. It is drawn again when the
 * theme changes and when the returned function is called. The chart has the height of `element`.
 */
export function chart(element, path) {
  let turn = 0;
  let drawn = false;

  /** Whether it is drawn, or no longer needed. */
  async function draw() {
    const mine = ++turn;
    try {
      const { path: where, body } = typeof path === "string" ? { path } : path;
      const at = `${where}${where.includes("?") ? "&" : "?"}theme=${theme()}`;
      const [figure, Plotly] = await Promise.all([body ? post(at, body) : get(at), plotly()]);
      if (mine !== turn || !element.isConnected) return true;
      if (!drawn) element.replaceChildren();
      drawn = true;
      element.removeAttribute("data-failed");
      await Plotly.react(element, figure.data, { ...figure.layout, autosize: true }, OPTIONS);
      element.dataset.drawn = theme();
      return true;
    } catch (error) {
      if (mine !== turn || error.status === 401) return true;
      if (drawn) return false;
      element.dataset.failed = "";
      element.replaceChildren(h("p", { class: "quiet" }, `This chart could not be drawn: ${error.message}`));
      return false;
    }
  }

  function changed() {
    if (element.isConnected) draw();
    else document.removeEventListener("themechange", changed);
  }
  document.addEventListener("themechange", changed);
  element.replaceChildren(h("p", { class: "quiet" }, "Drawing…"));
  queueMicrotask(draw);
  return draw;
}

/** A chart under a heading, with its numbers as a table: for readers who cannot see it or need them exactly. */
export function figure(title, about, path, table, tall = "") {
  const plot = h("div", { class: `plot ${tall}`, role: "img", "aria-label": `${title}: ${about}` });
  const redraw = chart(plot, path);
  const element = h(
    "figure", { class: "card" },
    h("figcaption", {}, h("h2", {}, title), h("p", { class: "quiet" }, about)),
    plot,
    table ? h("details", {}, h("summary", {}, "Show numbers"), table) : null,
  );
  return { element, redraw };
}
