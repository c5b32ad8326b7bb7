// A matrix as coloured cells: layers down, heads across. One stop for the keyboard; arrows move inside.
import { h } from "./dom.js";

/** @typedef {{label: string, heat: number, text?: string}} Cell `heat` is 0 to 1; `label` is read aloud */

export class Grid {
  /**
   * @param {{label: string, across: string, onLook?: (row: number, column: number) => void, onChoose?: (row: number, column: number) => void}} options
   */
  constructor({ label, across, onLook = () => {}, onChoose = null }) {
    this.onLook = onLook;
    this.onChoose = onChoose;
    this.at = [0, 0];
    this.body = h("div", {
      class: "grid",
      role: "grid",
      "aria-label": label,
      onkeydown: (event) => this.#key(event),
      onpointerover: (event) => this.#from(event, onLook),
      onfocusin: (event) => this.#from(event, onLook),
      onclick: (event) => this.#from(event, (row, column) => this.choose(row, column)),
    });
    this.element = h("div", { class: "grid-frame" }, h("div", { class: "grid-across", "aria-hidden": "true" }, across), h("div", { class: "grid-scroll" }, this.body));
  }

  /** @param {Cell[][]} rows @param {string} [rowName] what a row is */
  show(rows, rowName = "layer") {
    const columns = rows[0].length;
    this.rows = rows;
    this.body.style.setProperty("--columns", String(columns));
    this.body.classList.toggle("dense", columns > 16);
    this.body.classList.toggle("texts", Boolean(rows[0][0].text));
    this.cells = rows.map((row, y) => row.map((cell, x) => this.#cell(cell, x, y)));
    const focused = this.body.contains(document.activeElement);
    this.body.replaceChildren(
      h("div", { role: "row", class: "grid-head" }, h("span", { role: "columnheader", class: "grid-corner" }, h("span", { class: "unseen" }, rowName)), rows[0].map((_, x) => h("span", { role: "columnheader" }, String(x)))),
      ...this.cells.map((row, y) => h("div", { role: "row" }, h("span", { role: "rowheader", "aria-label": `${rowName} ${y}` }, String(y)), row)),
    );
    this.#stop(Math.min(this.at[0], rows.length - 1), Math.min(this.at[1], columns - 1));
    if (focused) this.cells[this.at[0]][this.at[1]].focus({ preventScroll: true });
  }

  #cell(cell, x, y) {
    return h("span", { role: "gridcell", class: "cell", tabindex: -1, "aria-label": cell.label, "data-at": `${y},${x}`, "--heat": cell.heat.toFixed(4) }, cell.text ? h("span", { class: "plate" }, cell.text) : "");
  }

  /** Mark a cell as chosen, and tell. */
  choose(row, column) {
    if (!this.onChoose) return;
    this.mark(row, column);
    this.onChoose(row, column);
  }

  mark(row, column) {
    this.body.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
    this.cells[row]?.[column]?.setAttribute("aria-selected", "true");
    this.#stop(row, column);
  }

  /** The one cell that Tab stops at. */
  #stop(row, column) {
    this.cells[this.at[0]]?.[this.at[1]]?.setAttribute("tabindex", "-1");
    this.at = [row, column];
    this.cells[row][column].setAttribute("tabindex", "0");
  }

  #from(event, tell) {
    const at = event.target.closest("[data-at]")?.dataset.at;
    if (at) tell(...at.split(",").map(Number));
  }

  #key(event) {
    const [row, column] = this.at;
    const [rows, columns] = [this.cells.length, this.cells[0].length];
    const to = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      Home: [event.ctrlKey ? 0 : row, 0],
      End: [event.ctrlKey ? rows - 1 : row, columns - 1],
    }[event.key];
    if (event.key === "Enter" || event.key === " ") this.choose(row, column);
    else if (!to) return;
    else if (to[0] >= 0 && to[0] < rows && to[1] >= 0 && to[1] < columns) {
      this.#stop(to[0], to[1]);
      this.cells[to[0]][to[1]].focus();
    }
    event.preventDefault();
  }
}

/** What the colours stand for. @param {string} low @param {string} high */
export function legend(low, high) {
  return h("div", { class: "legend" }, h("span", {}, low), h("span", { class: "legend-bar", "aria-hidden": "true" }), h("span", {}, high));
}
