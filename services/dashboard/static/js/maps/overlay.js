// Where the chosen head looked on pages of the profile, drawn by the scoring service.
import { address, get } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { count, counted } from "../lib/format.js";
import { Problem, notice } from "../lib/problems.js";

export class HeadPages {
  /** @param {any} map */
  constructor(map) {
    this.map = map;
    this.page = 0;
    this.chosen = [0, 0];
    this.title = h("h3");
    this.picture = h("img", { class: "head-page", alt: "", hidden: true });
    this.large = h("a", { class: "picture-link", target: "_blank", rel: "noopener" }, this.picture);
    this.text = h("p", { class: "hint" });
    this.before = h("button", { type: "button", disabled: true, onclick: () => this.#turn(-1) }, "Page before");
    this.after = h("button", { type: "button", disabled: true, onclick: () => this.#turn(1) }, "Next page");
    this.turning = h("div", { class: "row", hidden: true }, this.before, this.after);
    this.problem = h("div");
    this.element = h("section", { class: "stack tight", "aria-label": "The chosen head on a page" }, this.title, this.large, this.text, this.turning, this.problem);
  }

  /** @param {number} layer @param {number} head @param {boolean} load whether to ask at once */
  choose(layer, head, load) {
    this.chosen = [layer, head];
    this.title.textContent = `Layer ${layer}, head ${head} on a page`;
    if (load) this.#show();
    else {
      this.text.replaceChildren(h("button", { type: "button", onclick: () => this.#show() }, "Show where it looked"), h("span", { class: "block" }, "Or choose another head: click it, or move there with the arrow keys and press Enter."));
    }
  }

  async #show() {
    const [layer, head] = this.chosen;
    const path = `/maps/${this.map.id}/heads/${layer}/${head}/overlay`;
    const wanted = `${layer}-${head}-${this.page}`;
    this.wanted = wanted;
    this.problem.replaceChildren();
    try {
      const about = await get(path, { page: this.page, format: "json" });
      if (this.wanted !== wanted) return;
      this.picture.src = address(path, { page: this.page, format: "png" });
      await this.picture.decode(); // shown once it is whole, so that nothing jumps twice
      if (this.wanted !== wanted) return;
      this.large.href = this.picture.src;
      this.picture.alt = `Page ${this.page} of the profile, with the ${counted(about.hits, "place")} where layer ${layer}, head ${head} looked at the word being written; opens in full`;
      this.picture.hidden = false;
      this.text.textContent = `It looked at the word being written for ${count(about.hits)} of ${counted(about.looks.length, "token")}.`;
      this.#offer(about.pages);
    } catch (error) {
      if (this.wanted !== wanted) return;
      this.picture.hidden = true;
      this.turning.hidden = true;
      if (error instanceof Problem && error.status === 404) this.text.textContent = "This map keeps no pages: an imported one has none, nor has one of text or of an older profile.";
      else {
        this.text.textContent = "";
        this.problem.replaceChildren(notice(error, { text: "Try again", run: () => this.#show() }));
      }
    }
  }

  #offer(pages) {
    this.pages = pages;
    const place = pages.indexOf(this.page);
    this.turning.hidden = pages.length < 2;
    this.before.disabled = place <= 0;
    this.after.disabled = place === pages.length - 1;
  }

  #turn(by) {
    this.page = this.pages[this.pages.indexOf(this.page) + by];
    this.#show();
  }
}
