/** The REST API: the token, which this tab alone keeps, requests, and asking again and again. */

const TOKEN = "bucketline.token";

export class Problem extends Error {
  constructor(status, about) {
    super(about.detail || about.title || `HTTP ${status}`);
    Object.assign(this, { status, title: about.title, detail: about.detail, field: about.field, code: about.code });
  }
}

/** Told of what the connection does: "live", "down" (the network, or an answer that is none), "locked" (401). */
export const connection = new EventTarget();
const tell = (type, detail) => connection.dispatchEvent(new CustomEvent(type, { detail }));

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

let ahead_s = 0;
/** The coordinator's clock, in Unix seconds: this one's may be another. */
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
  const told = await response.json().catch(() => ({ title: `HTTP ${response.status}` }));
  if (!response.ok) throw new Problem(response.status, told);
  return told;
}

async function checked(path, options) {
  try {
    return await ask(path, options);
  } catch (error) {
    if (error.status === 401) tell("locked", error);
    throw error;
  }
}

export const get = (path, options) => checked(path, options);
export const post = (path, body) => checked(path, { method: "POST", body });

/** For a view that asks for nothing by itself: whether the coordinator is there. */
export const watch = () => poll((signal) => ask("healthz", { signal }), 5000);

/**
 * Calls `work(signal)` again and again: never two at a time, only while the page is seen, later where answers are slow,
 * and ever later while they fail. Returns a function that ends it.
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
      tell("live");
    } catch (error) {
      if (stopped.signal.aborted || error.status === 401) return;
      if (error instanceof Problem && (error.status < 500 || error.code === "planning")) {
        failures = 0;
        tell("live");
      } else {
        failures += 1;
        tell("down", error);
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
