/** plotly's charts, drawn from what the API's figures are; its program is loaded with the first. */

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

/** Draws in `element` a figure that is here already; its height is the element's. */
export async function show(element, figure) {
  const Plotly = await plotly();
  if (element.isConnected) await Plotly.react(element, figure.data, { ...figure.layout, autosize: true }, OPTIONS);
}

/**
 * Draws in `element` what GET `path` answers, or POST where it is {path, body}; again on a change of theme, and
 * when the function that it returns is called. `element` has the height that the chart gets.
 */
export function chart(element, path) {
  let turn = 0;
  let drawn = false;

  /** Whether it is drawn, or not wanted any more. */
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

/** A chart under a heading, with its numbers as a table for whoever can not see it, or wants them exactly. */
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
