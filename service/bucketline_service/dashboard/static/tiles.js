/** Tiles: the most important numbers, each under its name. */

import { h, setText } from "./dom.js";

export function tiles() {
  const element = h("dl", { class: "tiles" });
  const by_name = new Map();
  return {
    element,
    /** [[name, value, note?, tone?], …] */
    update(facts) {
      for (const [name, value, note = "", tone = ""] of facts) {
        let tile = by_name.get(name);
        if (!tile) {
          tile = { value: h("dd", { class: "value" }), note: h("dd", { class: "quiet" }) };
          tile.element = h("div", { class: "tile" }, h("dt", {}, name), tile.value, tile.note);
          by_name.set(name, tile);
          element.append(tile.element);
        }
        setText(tile.value, value);
        setText(tile.note, note);
        tile.element.dataset.tone = tone;
      }
    },
  };
}
