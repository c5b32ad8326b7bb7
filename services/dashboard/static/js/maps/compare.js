// Another map of the same shape beside this one: how alike they are, and where they differ most.
import { get } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { Grid, legend } from "../lib/grid.js";
import { notice } from "../lib/problems.js";
import { ranked } from "../lib/scores.js";
import { nameOf } from "./name.js";

const LISTED = 8;

export class Comparison {
  /** @param {any} map @param {number[][]} matrix @param {any[]} others maps of the same shape */
  constructor(map, matrix, others) {
    this.map = map;
    this.matrix = matrix;
    this.others = others;
    this.shown = h("div", { class: "stack" });
    this.select = h(
      "select",
      { id: "other-map", onchange: () => this.#compare() },
      h("option", { value: "" }, "Choose a map"),
      others.map((other) => h("option", { value: other.id }, nameOf(other))),
    );
    this.element = h(
      "section",
      { class: "panel stack", "aria-labelledby": "compare-title" },
      h("h2", { id: "compare-title" }, "Beside another map"),
      others.length
        ? h("div", { class: "field narrow" }, h("label", { for: "other-map" }, "Compare with"), this.select)
        : h("p", { class: "hint" }, "There is no other map of this shape yet. Profile the model again with another seed, or import one."),
      this.shown,
    );
  }

  async #compare() {
    const other = this.others.find((one) => one.id === this.select.value);
    if (!other) {
      this.shown.replaceChildren();
      return;
    }
    try {
      const [figures, theirs] = await Promise.all([get(`/maps/${this.map.id}/compare/${other.id}`), get(`/maps/${other.id}/scores`)]);
      if (this.select.value === other.id) this.#show(other, figures, theirs);
    } catch (error) {
      this.shown.replaceChildren(notice(error, { text: "Try again", run: () => this.#compare() }));
    }
  }

  #show(other, figures, theirs) {
    const peak = Math.max(...this.matrix.flat(), ...theirs.flat());
    const facts = [
      ["Rank correlation", figures.spearman.toFixed(3)],
      ["Correlation", figures.pearson.toFixed(3)],
      ["Same top 5 %", `${percent(figures.top5pct_overlap)}, by chance ${percent(figures.top5pct_by_chance)}`],
      ["Same top 10 %", `${percent(figures.top10pct_overlap)}, by chance ${percent(figures.top10pct_by_chance)}`],
      ["Score elsewhere", percent(figures.total_variation)],
    ];
    this.shown.replaceChildren(
      h("dl", { class: "figures" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      h("div", { class: "halves" }, grid(this.map, this.matrix, peak), grid(other, theirs, peak)),
      legend("0 %", percent(peak)),
      h("h3", {}, "What differs most"),
      this.#differences(other, theirs),
    );
  }

  #differences(other, theirs) {
    const place = new Map(ranked(theirs, null).map((head) => [`${head.layer}-${head.head}`, head]));
    const pairs = ranked(this.matrix, null).map((ours) => ({ ours, theirs: place.get(`${ours.layer}-${ours.head}`) }));
    pairs.sort((a, b) => Math.abs(b.ours.score - b.theirs.score) - Math.abs(a.ours.score - a.theirs.score));
    if (pairs.every(({ ours, theirs: there }) => ours.score === there.score)) return h("p", { class: "hint" }, "Nothing: both maps give every head the same score.");
    const columns = ["Layer", "Head", `Version ${this.map.version}`, name(this.map, other), "Ranks"];
    const rows = pairs.slice(0, LISTED).map(({ ours, theirs: there }) => [ours.layer, ours.head, percent(ours.score), percent(there.score), `${ours.rank} and ${there.rank}`]);
    return h(
      "div",
      { class: "table-wrap", tabindex: 0, role: "region", "aria-label": "Heads that differ most" },
      h("table", {}, h("thead", {}, h("tr", {}, columns.map((text) => h("th", { scope: "col", class: "number" }, text)))), h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", { class: "number" }, String(cell))))))),
    );
  }
}

const name = (map, other) => (other.model === map.model ? `Version ${other.version}` : `${other.model}, version ${other.version}`);

function grid(map, matrix, peak) {
  const shown = new Grid({ label: `Head scores of ${map.model}, version ${map.version}`, across: `${map.model}, version ${map.version}` });
  shown.show(matrix.map((row, layer) => row.map((score, head) => ({ heat: score / peak, label: `Layer ${layer}, head ${head}: ${percent(score)}` }))));
  return shown.element;
}
