// What a head keeps of a sample page, by the chosen selector and by another one.
import { post } from "../lib/api.js";
import { h, newId, setOptions } from "../lib/dom.js";
import { selectorName } from "../lib/methods.js";
import { notice } from "../lib/problems.js";
import { KeptDifference } from "../playground/difference.js";

export class HeadOnPage {
  /**
   * @param {{kvOf: (select: string) => any, selector: () => string, onChoose: (layer: number, head: number) => void}} calls
   * `kvOf`: a request's `kv` with a selector; `selector`: the chosen one; `onChoose`: a head is looked at
   */
  constructor({ kvOf, selector, onChoose }) {
    this.kvOf = kvOf;
    this.selector = selector;
    this.onChoose = onChoose;
    this.page = null;
    this.asked = 0;
    const id = newId("other");
    this.other = h("select", { id, onchange: () => this.look() });
    this.button = h("button", { type: "button", onclick: () => this.choose(...this.head) }, "Show what it keeps");
    this.start = h("div", { class: "stack tight" }, h("div", {}, this.button), h("p", { class: "hint" }, "This asks the model about a sample page. Or choose a head above: click it, or move there with the arrow keys and press Enter."));
    this.difference = new KeptDifference("by the chosen", "by the other");
    this.problem = h("div");
    this.element = h("div", { class: "stack" }, h("div", { class: "field narrow" }, h("label", { for: id }, "Beside the chosen tokens"), this.other), this.start, this.problem, this.difference.element);
    this.follow(null);
  }

  /** @param {{model: string, picture: any, question: string} | null} page a prompt of the map's model; null where it is not served */
  follow(page) {
    this.page = page;
    this.asked += 1;
    this.element.removeAttribute("aria-busy");
    this.start.hidden = false;
    this.difference.element.hidden = true;
    this.problem.replaceChildren();
    if (!page) {
      this.looks = false;
      return;
    }
    this.difference.prepare(page.picture);
    this.look(); // at a head that was chosen before the page was here
  }

  /** @param {string[]} selectors of the server */
  offer(selectors) {
    setOptions(this.other, selectors.map((one) => [one, selectorName(one)]));
    this.other.value = selectors.find((one) => one !== this.selector()) ?? selectors[0];
  }

  /** The head that is shown unless another is chosen. @param {number[][]} budgets */
  begin(budgets) {
    if (this.looks) return;
    const most = Math.max(...budgets.flat());
    const layer = budgets.findIndex((row) => row.includes(most));
    this.head = [layer, budgets[layer].indexOf(most)];
    this.button.textContent = `Show what KV head ${this.head[1]} of layer ${layer} keeps`;
  }

  choose(layer, head) {
    this.head = [layer, head];
    this.looks = true;
    this.onChoose(layer, head);
    this.look();
  }

  /** Ask by both selectors, once a head is looked at. */
  async look() {
    if (!this.looks || !this.page) return;
    const number = ++this.asked;
    const { model, picture, question } = this.page;
    const [layer, kvHead] = this.head;
    const ask = (select) =>
      post("/generate", { model, inputs: question, images: [picture.url], parameters: { max_new_tokens: 1, details: true, kv: this.kvOf(select), kept: { layer, kv_head: kvHead } } });
    this.element.setAttribute("aria-busy", "true");
    try {
      const answers = await Promise.all([ask(this.selector()), ask(this.other.value)]);
      if (number !== this.asked) return;
      this.problem.replaceChildren();
      this.start.hidden = true;
      this.difference.element.hidden = false;
      this.difference.show(answers[0].details, answers[1].details);
    } catch (error) {
      if (number === this.asked) this.problem.replaceChildren(notice(error, { text: "Try again", run: () => this.look() }));
    } finally {
      if (number === this.asked) this.element.removeAttribute("aria-busy");
    }
  }
}
