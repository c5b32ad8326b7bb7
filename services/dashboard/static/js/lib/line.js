// A small line over time, filled below; its highest value stands beside it.
import { h, s } from "./dom.js";
import { count } from "./format.js";

const [WIDTH, HEIGHT] = [300, 90];

export class Line {
  /** @param {string} label */
  constructor(label) {
    this.label = label;
    this.area = s("path", { class: "line-area" });
    this.path = s("path", { class: "line-path", "vector-effect": "non-scaling-stroke" });
    this.picture = s("svg", { class: "line", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, this.area, this.path);
    this.peak = h("p", { class: "hint" }, " ");
    this.element = h("div", { class: "stack tight" }, this.picture, this.peak);
  }

  /** @param {number[]} values the newest last @param {number} room how many the width stands for */
  show(values, room) {
    const top = Math.max(...values, 1);
    const x = (index) => WIDTH - ((values.length - 1 - index) * WIDTH) / (room - 1);
    const y = (value) => HEIGHT - 2 - (value / top) * (HEIGHT - 6);
    const line = values.map((value, index) => `${index ? "L" : "M"}${x(index).toFixed(1)},${y(value).toFixed(1)}`).join("");
    this.path.setAttribute("d", line);
    this.area.setAttribute("d", `${line}L${WIDTH},${HEIGHT}L${x(0).toFixed(1)},${HEIGHT}Z`);
    const highest = Math.max(...values);
    this.peak.textContent = `at most ${count(highest)} in the last two minutes`;
    this.picture.setAttribute("aria-label", `${this.label}: now ${count(values.at(-1))}, at most ${count(highest)}`);
  }
}
