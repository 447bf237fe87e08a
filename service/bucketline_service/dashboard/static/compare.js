/**
 * The view "Compare plans", at #/compare: specs beside each other, and what each costs on a map, before any run is put.
 * What is typed stays in this tab. mount(element, api) fills the empty element and returns a function that ends it.
 */

import { planCard } from "./compare-plan.js";
import { result } from "./compare-result.js";
import { MAX_PLANS, ofRun, PRESETS, pretty, sources } from "./compare-specs.js";
import { command, empty, h, newId, plural, setText } from "./dom.js";

const KEPT = "bucketline.compare";
const AGAIN_MS = 3000;
const FIRST = ["novelai", "fitted-8"];
const NEEDS_OPERATOR =
  "Comparing plans requires an operator's token, but you are logged in with a worker's: log out, and log in with an operator's.";

export function mount(element, api) {
  const page = new Page(api);
  element.append(...page.elements);
  page.load();
  return () => page.end();
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

class Page {
  #api;
  #plans = [];
  #maps = [];
  #runs = [];
  #chosen = kept().maps ?? [];
  #turn = 0;
  #asked = null; // what the results that are shown are of
  #ended = new AbortController();
  #narrow = matchMedia("(max-width: 1040px)");

  constructor(api) {
    this.#api = api;
    const add_id = newId("add");
    this.style = h("link", { rel: "stylesheet", href: new URL("compare.css", import.meta.url).href });
    this.mapFields = h("div", { class: "map-fields" }, h("p", { class: "quiet" }, "Loading…"));
    this.list = h("ul", { class: "plans", "aria-label": "Plans" });
    this.add = h("select", { id: add_id, onchange: () => this.#addChosen() });
    this.status = h("p", { class: "quiet", role: "status" });
    this.alert = h("p", { class: "wrong", role: "alert" });
    this.go = h("button", { type: "submit", class: "primary" }, "Compare");
    this.results = h("div", { class: "results" });
    const form = h(
      "form", { class: "stack", novalidate: true },
      h("section", { class: "card" }, h("h2", {}, "Map"), this.mapFields),
      this.list,
      h(
        "div", { class: "compare-bar" },
        h("div", { class: "field" }, h("label", { for: add_id }, "Add a plan"), this.add),
        this.go,
        this.status,
      ),
      this.alert,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.compare();
    });
    this.form = form;
    this.elements = [
      this.style,
      h("h1", {}, "Compare plans"),
      h("p", { class: "quiet" }, "What each of several run specs would cost on a map: cropping, images left out, steps, shapes, and how full packs are. Nothing is stored on the server."),
      form,
      this.results,
    ];
    const signal = this.#ended.signal;
    const again = () => this.#asked && this.#ask(this.#asked, true);
    document.addEventListener("themechange", again, { signal });
    this.#narrow.addEventListener("change", again, { signal });
  }

  end() {
    this.#ended.abort();
  }

  async load() {
    try {
      const [{ maps }, { runs }] = await Promise.all([this.#api.get("v1/maps"), this.#api.get("v1/runs")]);
      if (this.#ended.signal.aborted) return;
      setText(this.alert, "");
      this.#maps = maps.map((each) => each.map);
      this.#runs = runs;
    } catch (error) {
      if (this.#ended.signal.aborted || error.status === 401) return;
      setText(this.alert, `Maps and runs could not be read: ${error.message}`);
      setTimeout(() => this.#ended.signal.aborted || this.load(), AGAIN_MS);
      return;
    }
    if (!this.#maps.length) {
      this.form.replaceChildren(
        h("section", { class: "card" }, empty(h("h3", {}, "No map yet"), "Plans are compared on the sizes of your images. Upload them:", command("bucketline map put my-images images.csv"))),
      );
      return;
    }
    this.#chosen = this.#chosen.filter((map) => this.#maps.includes(map));
    if (!this.#chosen.length) this.#chosen = [this.#maps[0]];
    this.#drawMaps();
    this.#drawAdd();
    const before = kept().plans;
    for (const plan of before?.length ? before : FIRST.map((name) => this.#preset(name))) this.#append(plan);
  }

  #drawMaps(focus = -1) {
    const fields = this.#chosen.map((chosen, index) => {
      const id = newId("map");
      const select = h("select", { id }, this.#maps.map((map) => h("option", { value: map }, map)));
      select.value = chosen;
      select.addEventListener("change", () => {
        this.#chosen[index] = select.value;
        this.#changed();
      });
      const remove = h("button", { type: "button", "aria-label": `Remove map ${index + 1}` }, "Remove");
      remove.addEventListener("click", () => {
        this.#chosen.splice(index, 1);
        this.#drawMaps(Math.max(0, index - 1));
        this.#changed();
      });
      const label = this.#chosen.length > 1 ? `Map ${index + 1}` : "Map of images";
      return h("div", { class: "map-field" }, h("label", { for: id }, label), select, this.#chosen.length > 1 ? remove : null);
    });
    const rest = this.#maps.filter((map) => !this.#chosen.includes(map));
    const more = h("button", { type: "button" }, "Add a map");
    more.addEventListener("click", () => {
      this.#chosen.push(rest[0]);
      this.#drawMaps(this.#chosen.length - 1);
      this.#changed();
    });
    this.mapFields.replaceChildren(...fields, ...(rest.length ? [more] : []));
    if (focus >= 0) fields[focus].querySelector("select").focus();
  }

  #drawAdd() {
    const presets = PRESETS.map(({ name, about }) => h("option", { value: `preset ${name}` }, `${name}: ${about}`));
    const runs = this.#runs.filter(({ spec }) => spec !== null).map(({ run }) => h("option", { value: `run ${run}` }, run));
    this.add.replaceChildren(
      h("option", { value: "" }, "Choose a spec to start from…"),
      h("optgroup", { label: "Ladders" }, presets),
      ...(runs.length ? [h("optgroup", { label: "Existing runs" }, runs)] : []),
    );
  }

  #preset(name) {
    const { fields } = PRESETS.find((preset) => preset.name === name);
    // as those that are there, so that only the ladder differs
    let deal = { world_size: 8, batch_size: 8 };
    try {
      const { world_size, batch_size } = this.#plans.at(-1).spec();
      if (world_size) deal = { world_size, batch_size: batch_size ?? deal.batch_size };
    } catch {
      // none, or not finished
    }
    // a pack takes the place of a batch size
    if (fields.pack) delete deal.batch_size;
    return { name, text: pretty({ ...deal, ...fields }) };
  }

  #addChosen() {
    const [what, ...words] = this.add.value.split(" ");
    const name = words.join(" ");
    this.add.value = "";
    if (!what) return;
    const plan = what === "preset" ? this.#preset(name) : { name, text: pretty(ofRun(this.#runs.find(({ run }) => run === name).spec)) };
    this.#append(plan).focus();
    this.#changed();
  }

  #append({ name, text }, after) {
    const names = new Set(this.#plans.map((plan) => plan.name()));
    let free = name;
    for (let number = 2; names.has(free); number += 1) free = `${name} ${number}`;
    const plan = planCard({ name: free, text }, {
      changed: () => this.#changed(),
      duplicate: (of) => {
        this.#append({ name: of.name(), text: of.text() }, of).focus();
        this.#changed();
      },
      remove: (of) => this.#remove(of),
      maps: () => this.#chosen,
    });
    const at = after ? this.#plans.indexOf(after) + 1 : this.#plans.length;
    this.#plans.splice(at, 0, plan);
    this.list.insertBefore(plan.element, this.list.children[at] ?? null);
    this.#limit();
    return plan;
  }

  #remove(plan) {
    const at = this.#plans.indexOf(plan);
    this.#plans.splice(at, 1);
    plan.element.remove();
    const next = this.#plans[at] ?? this.#plans[at - 1];
    if (next) next.focus();
    else this.add.focus();
    this.#limit();
    this.#changed();
  }

  #limit() {
    const is_full = this.#plans.length >= MAX_PLANS;
    this.list.classList.toggle("full", is_full);
    this.add.disabled = is_full;
    this.go.disabled = !this.#plans.length;
    setText(this.status, is_full ? `At most ${MAX_PLANS} plans can be compared.` : "");
  }

  #changed() {
    const plans = this.#plans.map((plan) => ({ name: plan.name(), text: plan.text() }));
    sessionStorage.setItem(KEPT, JSON.stringify({ maps: this.#chosen, plans }));
    if (this.#asked) setText(this.status, "The comparison is out of date: compare again.");
    this.results.classList.toggle("stale", Boolean(this.#asked));
  }

  #specs() {
    let first = null;
    const specs = this.#plans.map((plan) => {
      try {
        plan.fail(null);
        return plan.spec();
      } catch (error) {
        plan.fail(error.message);
        first ??= plan;
        return null;
      }
    });
    first?.focusSpec();
    return first ? null : specs;
  }

  compare() {
    const specs = this.#specs();
    setText(this.alert, "");
    if (!specs) return;
    setText(this.status, "Comparing…");
    const plans = [...this.#plans];
    this.#ask({ plans, body: { ...sources(this.#chosen), specs, names: plans.map((plan) => plan.name()) } }, false);
  }

  /** `is_again`: for another theme or width of the page, where nobody pressed a button. */
  async #ask(asked, is_again) {
    const mine = ++this.#turn;
    const is_late = () => mine !== this.#turn || this.#ended.signal.aborted;
    if (!is_again) this.go.disabled = true;
    try {
      const at = `v1/previews?figure=${this.#api.theme()}&narrow=${this.#narrow.matches}`;
      const answer = await this.#api.post(at, asked.body);
      if (is_late()) return;
      if (!is_again) this.#tell(answer, asked);
      this.#show(answer, asked, is_again);
    } catch (error) {
      if (is_late()) return;
      setText(this.status, "");
      setText(this.alert, error.status === 403 ? NEEDS_OPERATOR : error.message);
    } finally {
      if (mine === this.#turn) this.go.disabled = !this.#plans.length;
    }
  }

  #tell(answer, { plans }) {
    answer.previews.forEach((each, index) => plans[index].fail(each.problem?.detail));
    const met = answer.previews.filter((each) => each.stats).length;
    const failed = plans.length - met;
    const told = failed ? `${plural(failed, "plan")} cannot be met; see the message of each.` : `Compared ${plural(met, "plan")}.`;
    setText(this.status, told);
    this.results.classList.remove("stale");
  }

  #show(answer, asked, is_again) {
    const is_any = answer.previews.some((each) => each.stats);
    this.#asked = is_any ? asked : null;
    if (!is_any) {
      this.results.replaceChildren();
      return;
    }
    const { element, focus } = result(answer, asked.body.names);
    this.results.replaceChildren(element);
    if (!is_again) focus();
  }
}
