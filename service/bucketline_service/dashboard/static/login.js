/** The login form, where the coordinator requires a token. */

import { ask, token } from "./api.js";
import { h, setText } from "./dom.js";

export function login(main, message, done) {
  document.title = "Log in · bucketline";
  const field = h("input", {
    id: "token", type: "password", autocomplete: "off", required: true, spellcheck: "false",
    "aria-describedby": "token-help token-wrong",
  });
  const button = h("button", { type: "submit", class: "primary" }, "Log in");
  const wrong = h("p", { id: "token-wrong", class: "wrong", role: "alert" });
  setText(wrong, message);

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    setText(wrong, "");
    try {
      const value = field.value.trim();
      // other characters cannot be sent in a header
      if (!/^[\x21-\xff]+$/.test(value)) throw Object.assign(new Error(), { status: 401 });
      await ask("v1/maps", { with_token: value });
      token.set(value);
      done();
    } catch (error) {
      setText(wrong, error.status === 401 ? "This token is not valid." : `The coordinator did not answer: ${error.message}`);
      field.setAttribute("aria-invalid", "true");
      field.select();
    } finally {
      button.disabled = false;
    }
  }

  main.replaceChildren(
    h(
      "form", { class: "card login", onsubmit: submit },
      h("h1", {}, "Log in"),
      h("label", { for: "token" }, "Token"),
      field,
      h("p", { id: "token-help", class: "quiet" }, "A worker's or an operator's token. It is kept in this tab until you close it."),
      wrong,
      button,
    ),
  );
  field.focus();
}
