// A bar that shows a share of a whole, with its figures; it has its place before there is anything to show.
import { h, newId } from "./dom.js";
import { percent } from "./format.js";

export class Meter {
  /** @param {string} label */
  constructor(label) {
    const id = newId("meter");
    this.bar = h("div", { class: "meter-bar" });
    this.track = h("div", { class: "meter-track", role: "meter", "aria-labelledby": id, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 0 }, this.bar);
    this.text = h("span", { class: "figure" });
    this.share = h("span", { class: "figure strong" });
    this.element = h(
      "div",
      { class: "meter" },
      h("div", { class: "row between" }, h("span", { id, class: "meter-label" }, label), h("span", {}, this.share, " ", this.text)),
      this.track,
    );
    this.clear();
  }

  clear() {
    this.#set(0, "", "–");
    this.track.setAttribute("aria-valuetext", "nothing to show yet");
  }

  /** @param {number} share of 1 @param {string} text */
  show(share, text) {
    this.#set(share, text, percent(share));
    this.track.setAttribute("aria-valuetext", `${percent(share)}, ${text}`);
  }

  #set(share, text, figure) {
    this.bar.style.setProperty("--share", String(Math.min(1, share)));
    this.track.setAttribute("aria-valuenow", String(Math.round(share * 100)));
    this.text.textContent = text;
    this.share.textContent = figure;
  }
}
