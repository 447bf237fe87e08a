/** Builds elements, and formats numbers. Names that users chose are inserted as text, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Changes the text only where it differs, so that screen readers and selections are not disturbed. */
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

let lastId = 0;
export const newId = (what) => `${what}-${++lastId}`;

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const brief = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

export const num = (value) => (value === null || value === undefined ? "–" : whole.format(value));
export const few = (value) => (value === null || value === undefined ? "–" : brief.format(value));
export const plural = (value, one, many = `${one}s`) => `${num(value)} ${value === 1 ? one : many}`;
export const percent = (share, digits = 1) =>
  share === null || share === undefined ? "–" : `${(share * 100).toFixed(digits)} %`;
export const size = (width, height) => `${width} × ${height}`;

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const all = Math.max(0, Math.round(seconds));
  if (all < 60) return `${all} s`;
  const minutes = Math.floor(all / 60);
  if (minutes < 60) return `${minutes} min ${all % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const ago = (seconds) => (seconds < 2 ? "just now" : `${duration(seconds)} ago`);

export function when(at_s) {
  const at = new Date(at_s * 1000);
  const today = at.toDateString() === new Date().toDateString();
  const time = at.toLocaleTimeString("en-GB");
  return today ? time : `${at.toLocaleDateString("en-CA")} ${time}`;
}

export const enc = encodeURIComponent;
export const runLink = (run) => `#/runs/${enc(run)}`;
export const mapLink = (map) => `#/maps/${enc(map)}`;

/** A card with a heading, which labels it. */
export function section(title, ...children) {
  const id = newId("heading");
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

export function empty(...children) {
  return h("div", { class: "empty" }, ...children.map((child) => (typeof child === "string" ? h("p", {}, child) : child)));
}

export const command = (text) => h("pre", { class: "command", tabindex: "0" }, h("code", {}, text));
