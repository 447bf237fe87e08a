/** One plan that is compared: its name, its spec as text, and what is wrong with it. */

import { command, copy, parse } from "./compare-specs.js";
import { h, newId, setText } from "./dom.js";

/** `on`: {changed(), duplicate(plan), remove(plan), maps()}. */
export function planCard({ name, text }, on) {
  const ids = { name: newId("plan"), spec: newId("spec"), wrong: newId("wrong") };
  const nameField = h("input", { id: ids.name, type: "text", maxlength: 64, autocomplete: "off", required: true });
  const area = h("textarea", { id: ids.spec, rows: 11, spellcheck: "false", autocapitalize: "off", "aria-describedby": ids.wrong });
  const wrong = h("p", { id: ids.wrong, class: "wrong" });
  const said = h("span", { class: "quiet", role: "status" });
  const heading = h("h3", { class: "hidden" });
  nameField.value = name;
  area.value = text;

  const plan = {
    element: null,
    name: () => nameField.value.trim() || "plan",
    text: () => area.value,
    spec: () => parse(area.value),
    focus: () => nameField.focus(),
    fail(message) {
      setText(wrong, message ?? "");
      if (message) area.setAttribute("aria-invalid", "true");
      else area.removeAttribute("aria-invalid");
    },
    focusSpec: () => area.focus(),
  };

  async function copied(make) {
    try {
      await copy(make());
      setText(said, "Copied");
    } catch (error) {
      setText(said, `Not copied: ${error.message}`);
    }
  }
  const button = (label, work) => {
    const made = h("button", { type: "button", onclick: work }, label);
    buttons.push([made, label]);
    return made;
  };
  const buttons = [];
  plan.element = h(
    "li", { class: "card plan" },
    heading,
    h(
      "div", { class: "plan-head" },
      h("div", { class: "field grow" }, h("label", { for: ids.name }, "Name"), nameField),
      button("Duplicate", () => on.duplicate(plan)),
      button("Remove", () => on.remove(plan)),
    ),
    h("div", { class: "field" }, h("label", { for: ids.spec }, "Run spec in JSON, without its map"), area),
    wrong,
    h(
      "div", { class: "plan-foot" },
      button("Copy spec", () => copied(() => area.value)),
      button("Copy as command", () => copied(() => command(plan.name(), on.maps(), plan.spec()))),
      said,
    ),
  );

  function named() {
    setText(heading, plan.name());
    for (const [each, label] of buttons) each.setAttribute("aria-label", `${label}: ${plan.name()}`);
  }
  nameField.addEventListener("input", () => {
    named();
    on.changed();
  });
  area.addEventListener("input", () => {
    plan.fail(null);
    setText(said, "");
    on.changed();
  });
  named();
  return plan;
}
