// Heads in order of their scores: a bar each with its interval, and the running share of the total as a line.
import { h, s } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { interval, keyOf } from "../lib/scores.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 260, 44, 44, 12, 28];
const LISTED = 20;

export class Ranking {
  /**
   * @param {import("../lib/scores.js").Head[]} heads
   * @param {{onLook: (head: any) => void, onChoose: (head: any) => void}} calls
   */
  constructor(heads, { onLook, onChoose }) {
    this.heads = heads;
    this.calls = { onLook, onChoose };
    this.element = h("div", { class: "stack" }, this.#picture(), this.#table());
  }

  #picture() {
    const heads = this.heads;
    const highest = Math.max(...heads.map((head) => interval(head)?.[1] ?? head.score));
    const step = (WIDTH - LEFT - RIGHT) / heads.length;
    const x = (index) => LEFT + index * step;
    const y = (part) => HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM);
    const bars = heads.map((head, index) => {
      const range = interval(head);
      const middle = x(index) + step / 2;
      return s(
        "g",
        { class: "bar", onpointerover: () => this.calls.onLook(head), onclick: () => this.calls.onChoose(head) },
        s("rect", { class: "bar-room", x: x(index), y: TOP, width: step, height: HEIGHT - TOP - BOTTOM }),
        s("rect", { class: "bar-score", x: x(index) + step * 0.12, y: y(head.score / highest), width: step * 0.76, height: y(0) - y(head.score / highest) }),
        range && step > 3 ? s("path", { class: "bar-range", d: `M${middle},${y(range[0] / highest)}V${y(range[1] / highest)}` }) : null,
      );
    });
    const line = heads.map((head, index) => `${index ? "L" : "M"}${(x(index) + step / 2).toFixed(1)},${y(head.share).toFixed(1)}`).join("");
    const marks = [0, 0.5, 1].flatMap((part) => [
      s("path", { class: "chart-rule", d: `M${LEFT},${y(part)}H${WIDTH - RIGHT}` }),
      s("text", { class: "chart-text", x: LEFT - 6, y: y(part) + 4, "text-anchor": "end" }, percent(part * highest)),
      s("text", { class: "chart-text accent", x: WIDTH - RIGHT + 6, y: y(part) + 4 }, percent(part)),
    ]);
    return h(
      "figure",
      { class: "stack tight" },
      s(
        "svg",
        { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Scores of ${heads.length} heads, highest first, and the running share of the total; the table below has the first ${Math.min(LISTED, heads.length)}` },
        marks,
        bars,
        s("path", { class: "chart-line", d: line }),
        s("text", { class: "chart-text", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "Heads, highest score first"),
      ),
      h("figcaption", { class: "chart-keys" }, h("span", { class: "key heat" }, "score, with its 95 % interval (left)"), h("span", { class: "key line-key" }, "running share of the total (right)")),
    );
  }

  #table() {
    const columns = ["Rank", "Layer", "Head", "Score", "95 % interval", "Running share"];
    const rows = this.heads.slice(0, LISTED).map((head) => {
      const range = interval(head);
      const show = h("button", { type: "button", class: "link", onclick: () => this.calls.onChoose(head), onfocus: () => this.calls.onLook(head), "aria-label": `Show layer ${head.layer}, head ${head.head}` }, String(head.head));
      const cells = [head.rank, head.layer, show, percent(head.score), range ? `${percent(range[0])} to ${percent(range[1])}` : "not known", percent(head.share)];
      return h("tr", { "data-head": keyOf(head) }, cells.map((cell) => h("td", { class: "number" }, typeof cell === "number" ? String(cell) : cell)));
    });
    return h(
      "div",
      { class: "table-wrap", tabindex: 0, role: "region", "aria-label": "Heads that score highest" },
      h("table", {}, h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col", class: "number" }, name)))), h("tbody", {}, rows)),
    );
  }
}
