// The heads of a map: as a grid by layer, or in order of their scores with the running share of the total.
import { h } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { Grid, legend } from "../lib/grid.js";
import { interval, keyOf, top } from "../lib/scores.js";
import { HeadPages } from "./overlay.js";
import { Ranking } from "./ranking.js";

const TOP = 0.05;

export class Heads {
  /** @param {any} map @param {number[][]} matrix @param {import("../lib/scores.js").Head[]} heads */
  constructor(map, matrix, heads) {
    this.map = map;
    this.heads = heads;
    this.byKey = new Map(heads.map((head) => [keyOf(head), head]));
    this.pages = new HeadPages(map);
    this.card = h("dl", { class: "figures head-card", "aria-live": "polite" });
    this.grid = new Grid({
      label: `Head scores of ${map.model}, version ${map.version}: layers down, heads across`,
      across: "Heads across, layers down",
      onLook: (layer, head) => this.#look(layer, head),
      onChoose: (layer, head) => this.#choose(layer, head),
    });
    const peak = heads[0].score;
    this.grid.show(matrix.map((row, layer) => row.map((score, head) => ({ heat: score / peak, label: this.#label(layer, head) }))));
    this.ranking = new Ranking(heads, {
      onLook: ({ layer, head }) => this.#look(layer, head),
      onChoose: ({ layer, head }) => {
        this.grid.mark(layer, head);
        this.#choose(layer, head);
      },
    });
    this.byLayer = h("div", { class: "stack" }, this.grid.element, legend("0 %", percent(peak)));
    this.byScore = h("div", { class: "stack", hidden: true }, this.ranking.element);
    this.element = this.#build();
    this.#choose(heads[0].layer, heads[0].head, false);
    this.grid.mark(heads[0].layer, heads[0].head);
  }

  #build() {
    const strongest = top(this.heads, TOP);
    const choice = (value, text, checked) => h("label", {}, h("input", { type: "radio", name: "order", value, checked, onchange: () => this.#order(value) }), h("span", {}, text));
    return h(
      "section",
      { class: "panel stack", "aria-labelledby": "heads-title" },
      h(
        "div",
        { class: "row between" },
        h("div", {}, h("h2", { id: "heads-title" }, "Heads"), h("p", { class: "hint" }, `The top 5 % (${strongest.count} of ${this.heads.length}) hold ${percent(strongest.share)} of the score.`)),
        h("div", { class: "segments", role: "radiogroup", "aria-label": "Order" }, choice("layer", "By layer", true), choice("score", "By score", false)),
      ),
      h("div", { class: "heads" }, h("div", { class: "heads-main" }, this.byLayer, this.byScore), h("div", { class: "stack heads-side" }, this.card, this.pages.element)),
    );
  }

  #order(value) {
    this.byLayer.hidden = value !== "layer";
    this.byScore.hidden = value !== "score";
  }

  #label(layer, head) {
    const found = this.byKey.get(`${layer}-${head}`);
    return `Layer ${layer}, head ${head}: ${percent(found.score)}, rank ${found.rank}`;
  }

  /** The figures of the head under the pointer or the keyboard. */
  #look(layer, head) {
    const found = this.byKey.get(`${layer}-${head}`);
    const range = interval(found);
    const group = this.map.num_heads / this.map.num_kv_heads;
    const figures = [
      ["Layer", layer],
      ["Head", head],
      ["KV head", Math.floor(head / group)],
      ["Score", percent(found.score)],
      ["95 % interval", range ? `${percent(range[0])} to ${percent(range[1])}` : "not known"],
      ["Rank", `${found.rank} of ${this.heads.length}`],
    ];
    this.card.replaceChildren(...figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
  }

  #choose(layer, head, load = true) {
    this.#look(layer, head);
    this.pages.choose(layer, head, load);
  }
}
