/** What of a plan would surprise, as a list: of a run, or of a plan that is compared. */

import { h, svg } from "./dom.js";

const icon = () =>
  svg(
    "svg", { class: "icon", viewBox: "0 0 20 20", "aria-hidden": "true" },
    svg("path", { d: "M10 2 19 18H1Z" }),
    svg("path", { d: "M10 8v4.5M10 15v.5" }),
  );

/** `warnings`: as in the answers of the server. `label`: of the list, for assistive technology. */
export const warningList = (warnings, label) =>
  h(
    "ul", { class: "warnings", "aria-label": label },
    warnings.map(({ message, remedy }) =>
      h(
        "li", {},
        icon(),
        h("div", {}, h("p", {}, h("span", { class: "hidden" }, "Warning: "), message), h("p", { class: "quiet" }, remedy)),
      ),
    ),
  );
