/** The REST API: the token, which only this tab keeps, requests, and polling. */

const TOKEN = "bucketline.token";

export class Problem extends Error {
  constructor(status, about) {
    super(about.detail || about.title || `HTTP ${status}`);
    Object.assign(this, { status, title: about.title, detail: about.detail, field: about.field, code: about.code });
  }
}

/** Events of the connection: "live", "down" (the network, or an invalid response), "locked" (401). */
export const connection = new EventTarget();
const dispatch = (type, detail) => connection.dispatchEvent(new CustomEvent(type, { detail }));

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

let ahead_s = 0;
/** The coordinator's clock, in Unix seconds: this computer's may differ. */
export const now_s = () => Date.now() / 1000 + ahead_s;

export async function ask(path, { method = "GET", body, signal, with_token = token.get() } = {}) {
  const headers = {};
  if (with_token) headers.Authorization = `Bearer ${with_token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(new URL(path, document.baseURI), {
    method, headers, signal, cache: "no-store", credentials: "omit",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const date = Date.parse(response.headers.get("Date") ?? "");
  // the header has whole seconds
  if (date && Math.abs(date / 1000 - now_s()) > 1.5) ahead_s = date / 1000 + 0.5 - Date.now() / 1000;
  const body_json = await response.json().catch(() => ({ title: `HTTP ${response.status}` }));
  if (!response.ok) throw new Problem(response.status, body_json);
  return body_json;
}

async function checked(path, options) {
  try {
    return await ask(path, options);
  } catch (error) {
    if (error.status === 401) dispatch("locked", error);
    throw error;
  }
}

export const get = (path, options) => checked(path, options);
export const post = (path, body) => checked(path, { method: "POST", body });

/** For a view that requests nothing itself: checks that the coordinator answers. */
export const watch = () => poll((signal) => ask("healthz", { signal }), 5000);

/**
 * Calls `work(signal)` repeatedly: never two at a time, only while the page is visible, less often where responses are
 * slow, and with growing pauses while they fail. Returns a function that ends it.
 */
export function poll(work, every_ms = 2000) {
  const stopped = new AbortController();
  let failures = 0;
  let timer = 0;
  let busy = false;

  async function turn() {
    if (busy || stopped.signal.aborted || document.hidden) return;
    clearTimeout(timer);
    busy = true;
    const begin = performance.now();
    try {
      await work(stopped.signal);
      failures = 0;
      dispatch("live");
    } catch (error) {
      if (stopped.signal.aborted || error.status === 401) return;
      if (error instanceof Problem && (error.status < 500 || error.code === "planning")) {
        failures = 0;
        dispatch("live");
      } else {
        failures += 1;
        dispatch("down", error);
      }
    } finally {
      busy = false;
    }
    const took_ms = performance.now() - begin;
    const pause_ms = failures ? 1000 * 2 ** Math.min(failures - 1, 4) : Math.max(every_ms, Math.min(2 * took_ms, 6000));
    if (!stopped.signal.aborted) timer = setTimeout(turn, Math.min(pause_ms, 15000));
  }

  const seen = () => turn();
  document.addEventListener("visibilitychange", seen);
  addEventListener("online", seen);
  turn();
  return () => {
    stopped.abort();
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
    removeEventListener("online", seen);
  };
}
