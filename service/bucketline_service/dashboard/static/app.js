/** The page: the view that the address names, the login, and the state of the connection. */

import * as api from "./api.js";
import { chart } from "./charts.js";
import * as compare from "./compare.js";
import { h, when } from "./dom.js";
import { login } from "./login.js";
import { mapView } from "./maps.js";
import { overview } from "./overview.js";
import { runView } from "./run.js";
import { install, theme } from "./theme.js";

const main = document.getElementById("main");
const status = document.getElementById("connection");
const logout = document.getElementById("logout");
let end = () => {};
let view = "";

/** {path: ["runs", "a b"], query} of "#/runs/a%20b?epoch=3". */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  try {
    return { path: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query) };
  } catch {
    return { path: ["none"], query: new URLSearchParams() }; // it was truncated or mistyped
  }
}

function compareView(element) {
  document.title = "Compare plans · bucketline";
  const unmount = compare.mount(element, { get: api.get, post: api.post, theme, chart });
  const unwatch = api.watch();
  return () => {
    unmount?.();
    unwatch();
  };
}

function views({ path, query }) {
  const [what, name, more, ...rest] = path;
  if (!what) return ["overview", overview];
  if (what === "compare") return ["compare", compareView];
  if (what === "maps" && name) return [`maps/${name}`, (element) => mapView(element, name)];
  if (what === "runs" && name && (!more || more === "images")) {
    // the search for an image is part of the run's view, which stays
    return [`runs/${name}`, (element) => runView(element, name), { id: rest.join("/"), query }];
  }
  return ["none", (element) => element.append(h("h1", {}, "No such page"), h("p", {}, h("a", { href: "#/" }, "Overview")))];
}

let present;

function show(is_first) {
  const [name, make, detail] = views(route());
  for (const link of document.querySelectorAll("nav [data-view]")) {
    const is_here = link.dataset.view === name || (link.dataset.view === "overview" && /^(runs|maps)\//.test(name));
    if (is_here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  logout.hidden = !api.token.get();
  if (name !== view) {
    end();
    main.replaceChildren();
    view = name;
    present = make(main);
    end = () => (typeof present === "function" ? present() : present?.end?.());
    scrollTo(0, 0);
    if (!is_first) main.focus({ preventScroll: true });
  }
  if (detail) present?.find?.(detail);
}

function lock(message) {
  end();
  end = () => {};
  view = "login";
  logout.hidden = true;
  api.token.forget();
  show_connection("");
  login(main, message, () => show(false));
}

function show_connection(state, text = "") {
  status.dataset.state = state;
  if (status.textContent !== text) status.textContent = text;
}

let down_since = null;
api.connection.addEventListener("live", () => {
  down_since = null;
  show_connection("live", "Live");
});
api.connection.addEventListener("down", ({ detail }) => {
  down_since ??= Date.now() / 1000;
  const why = detail instanceof api.Problem ? ` ${detail.message.replace(/\.$/, "")}.` : "";
  show_connection("down", `Disconnected since ${when(down_since)}.${why} Retrying…`);
});
api.connection.addEventListener("locked", () => {
  if (view !== "login") lock(api.token.get() ? "This token is no longer valid." : "");
});

install(document.getElementById("theme"));
logout.addEventListener("click", () => lock("You have logged out."));
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => view !== "login" && show(false));
show(true);
