// One column: a method and a budget, the answer as it comes, and what was really kept.
import { announce, h, newId, setOptions } from "../lib/dom.js";
import { bytes, count, milliseconds, percent } from "../lib/format.js";
import { Meter } from "../lib/meter.js";
import { nameOf, selectorName } from "../lib/methods.js";
import { keeps } from "../lib/policies.js";
import { notice } from "../lib/problems.js";
import { generate } from "../lib/stream.js";
import { KeptPicture } from "./kept.js";

export class Column {
  /**
   * @param {string} name
   * @param {{method: string, share: number}} choice what it begins with
   * @param {{ask: () => any, seen: () => any, onBusy: () => void, onKept: () => void}} calls `seen`: the picture to
   * draw on, or null; `onKept`: what is known to be kept has changed
   */
  constructor(name, choice, { ask, seen, onBusy, onKept }) {
    this.name = name;
    this.ask = ask;
    this.seen = seen;
    this.onBusy = onBusy;
    this.onKept = onKept;
    /** The answer whose kept tokens are drawn, and what was asked. @type {{details: any, prompt: string} | null} */
    this.drawn = null;
    /** @type {AbortController | null} */
    this.run_ = null;
    this.asked = false;
    this.spoken = "";
    /** @type {Map<string, any>} */
    this.policies = new Map();
    this.#build(choice);
    this.forget();
  }

  get busy() {
    return this.run_ !== null;
  }

  /**
   * The methods and selectors that the server has, and the model's policies.
   * @param {any} info as /info has it @param {any[]} policies
   */
  offer({ kv_methods: methods, kv_selectors: selectors, kv_default_selector: usual }, policies) {
    const selector = this.selector.value || usual;
    setOptions(this.selector, selectors.map((one) => [one, selectorName(one)]));
    this.selector.value = selector;
    const before = this.method.value;
    this.policies = new Map(policies.map((one) => [one.id, one.default_kv]));
    const named = policies.map((one) => h("option", { value: one.id }, one.default_kv.policy));
    this.method.replaceChildren(...methods.map((one) => h("option", { value: one }, nameOf(one))), named.length ? h("optgroup", { label: "Policies" }, ...named) : "");
    if (methods.includes(before) || this.policies.has(before)) this.method.value = before;
    this.#showBudget();
  }

  stop() {
    this.run_?.abort();
  }

  /** Empty it: the picture is another one. */
  forget() {
    this.stop();
    this.asked = false;
    this.text.textContent = "";
    this.verdict.hidden = true;
    this.problem.replaceChildren();
    this.#showDetails(null);
    this.#drawKept(null);
  }

  /** What is to be seen of a head is another one. */
  look() {
    this.#drawKept(null);
    if (this.asked && this.seen()) this.run();
  }

  /** Ask, and show the answer as it comes; a run before this one ends. */
  async run() {
    const asked = this.ask();
    if (!asked) return;
    this.stop();
    const run = (this.run_ = new AbortController());
    this.asked = true;
    this.#begin();
    const sent = performance.now();
    let first = 0;
    try {
      const body = { ...asked.body, parameters: { ...asked.body.parameters, kv: this.#kv() } };
      const answer = await generate(body, run.signal, (text) => {
        first ||= performance.now() - sent;
        if (this.run_ === run) this.text.append(text);
      });
      if (this.run_ !== run) return;
      this.text.textContent = answer.generated_text;
      this.#judge(answer.generated_text, asked.expected);
      this.#showDetails(answer.details, first || performance.now() - sent);
      if (answer.details.kept && this.seen()) this.#drawKept({ details: answer.details, prompt: promptOf(body) });
      this.spoken = `${this.name}: ${answer.generated_text}`;
    } catch (error) {
      if (this.run_ !== run) return;
      if (run.signal.aborted) this.#tell("Stopped");
      else this.problem.replaceChildren(notice(error, { text: "Try again", run: () => this.run() }));
      this.spoken = `${this.name}: no whole answer`;
    } finally {
      if (this.run_ === run) {
        this.run_ = null;
        this.element.removeAttribute("aria-busy");
        this.onBusy();
      }
    }
  }

  #drawKept(drawn) {
    this.drawn = drawn;
    if (drawn) this.kept.show(drawn.details);
    else this.kept.prepare(this.seen());
    this.onKept();
  }

  #kv() {
    const method = this.method.value;
    const policy = this.policies.get(method);
    if (policy) return { policy: policy.policy };
    return method === "full" ? { method } : { method, ratio: Number(this.slider.value) / 100, select: this.selector.value };
  }

  #begin() {
    this.text.textContent = "";
    this.verdict.hidden = true;
    this.problem.replaceChildren();
    this.element.setAttribute("aria-busy", "true");
    this.details.classList.add("stale");
    this.onBusy();
  }

  #judge(text, expected) {
    if (expected === null) return;
    const right = text.trim() === expected;
    this.verdict.hidden = false;
    this.verdict.className = right ? "tag good" : "tag bad";
    this.verdict.textContent = right ? "right" : `expected ${expected}`;
  }

  #tell(text) {
    this.verdict.hidden = false;
    this.verdict.className = "tag";
    this.verdict.textContent = text;
  }

  #build({ method, share }) {
    const [methodId, budgetId, selectorId] = [newId("method"), newId("budget"), newId("selector")];
    this.method = h("select", { id: methodId, onchange: () => this.#chose() }, h("option", { value: method }, nameOf(method)));
    this.slider = h("input", {
      id: budgetId,
      type: "range",
      min: 2,
      max: 100,
      value: Math.round(share * 100),
      oninput: () => this.#showBudget(),
      onchange: () => this.asked && this.run(),
    });
    this.selector = h("select", { id: selectorId, onchange: () => this.#chose() });
    this.budget = h("output", { for: budgetId, class: "figure" });
    this.text = h("p", { class: "answer-text" });
    this.verdict = h("span", { class: "tag" });
    this.problem = h("div");
    this.tokens = new Meter("Tokens kept");
    this.memory = new Meter("KV memory");
    this.first = h("dd", {});
    this.each = h("dd", {});
    this.map = h("dd", {});
    this.kept = new KeptPicture();
    this.details = h(
      "div",
      { class: "answer-details" },
      this.tokens.element,
      this.memory.element,
      h(
        "dl",
        { class: "figures" },
        h("div", {}, h("dt", {}, "First token"), this.first),
        h("div", {}, h("dt", {}, "Each token"), this.each),
        h("div", {}, h("dt", {}, "Head map"), this.map),
      ),
      this.kept.element,
    );
    this.element = h(
      "section",
      { class: "panel column", "aria-label": `${this.name} answer` },
      h(
        "div",
        { class: "column-head" },
        h("div", { class: "field" }, h("label", { for: methodId }, "Method"), this.method),
        h("div", { class: "field grow" }, h("div", { class: "row between" }, h("label", { for: budgetId }, "Budget"), this.budget), this.slider),
        h("div", { class: "field column-wide" }, h("label", { for: selectorId }, "Which tokens"), this.selector),
      ),
      h("div", { class: "answer" }, h("div", { class: "row between" }, h("h2", { class: "label" }, "Answer"), this.verdict), this.text, this.problem),
      this.details,
    );
    this.#showBudget();
  }

  #chose() {
    this.#showBudget();
    if (this.asked) this.run();
  }

  #showBudget() {
    const full = this.method.value === "full";
    const policy = this.policies.get(this.method.value);
    this.slider.disabled = this.selector.disabled = full || policy !== undefined;
    this.budget.textContent = policy ? `${keeps(policy)}, version ${policy.policy_version}` : full ? "all of it" : `${this.slider.value} % of the prompt`;
    this.slider.setAttribute("aria-valuetext", this.budget.textContent);
  }

  /** @param {any} details of the last event, null before there is one @param {number} [first] milliseconds */
  #showDetails(details, first = 0) {
    this.details.classList.toggle("stale", !details);
    if (!details) {
      this.tokens.clear();
      this.memory.clear();
      this.first.textContent = this.each.textContent = this.map.textContent = "–";
      return;
    }
    const { kv, timings } = details;
    this.tokens.show(kv.kept_tokens / kv.full_tokens, `${count(kv.kept_tokens)} of ${count(kv.full_tokens)}`);
    this.memory.show(kv.bytes / kv.full_bytes, `${bytes(kv.bytes)} of ${bytes(kv.full_bytes)}`);
    this.first.textContent = milliseconds(first);
    this.first.title = `queue ${milliseconds(timings.queue_ms)}, prefill ${milliseconds(timings.prefill_ms)}`;
    this.each.textContent = milliseconds(timings.decode_ms_per_token);
    this.map.replaceChildren(mapOf(kv));
    announce(`${this.name}: ${percent(kv.kept_tokens / kv.full_tokens)} of the tokens kept`);
  }
}

/** What two requests share if their kept tokens can be compared; another picture empties the columns. */
const promptOf = ({ model, inputs, parameters: { kept } }) => JSON.stringify([model, inputs, kept]);

/** Which map set the budgets, or why none did. */
function mapOf(kv) {
  if (kv.map_id) return h("a", { href: `/dashboard/maps?map=${kv.map_id}` }, kv.map_match === "exact" ? "in use" : "of another revision");
  if (kv.map_match === "none") return document.createTextNode("none: SnapKV");
  return document.createTextNode("not needed");
}
