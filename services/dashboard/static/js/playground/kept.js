// The picture with what a head keeps of it: the rest lies under a veil.
import { h, s } from "../lib/dom.js";
import { count, counted } from "../lib/format.js";

export class KeptPicture {
  constructor() {
    this.image = h("img", { alt: "" });
    this.veil = s("path", { class: "kept-veil", "fill-rule": "evenodd" });
    this.cells = s("path", { class: "kept-cells" });
    this.drawing = s("svg", { "aria-hidden": "true", preserveAspectRatio: "none" }, this.veil, this.cells);
    this.text = h("figcaption", { class: "hint" });
    this.element = h("figure", { class: "kept", hidden: true }, h("div", { class: "kept-frame" }, this.image, this.drawing), this.text);
  }

  /** Give the picture its place before there is an answer; without one, take none. @param {any} picture */
  prepare(picture) {
    this.element.hidden = !picture;
    this.#draw([]);
    this.text.textContent = "Ask to see what is kept.";
    if (!picture) return;
    this.size = [picture.width, picture.height];
    this.drawing.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
    this.image.width = picture.width;
    this.image.height = picture.height;
    this.image.src = picture.url;
    this.image.alt = "The picture; nothing is known to be kept of it yet";
  }

  /** @param {any} details of an answer that was asked what a head keeps of its picture */
  show({ kept, prompt_tokens: prompt }) {
    const [picture] = kept.pictures;
    const head = `KV head ${kept.kv_head} of layer ${kept.layer}`;
    const text = kept.positions.length - picture.kept_tokens;
    this.#draw(boxesOf(picture, this.size));
    this.image.alt = `The picture, with what ${head} keeps of it`;
    this.text.textContent = `${head} keeps ${count(picture.kept_tokens)} of the picture’s ${counted(picture.tokens, "token")} and ${count(text)} of the text’s ${count(prompt - picture.tokens)}.`;
  }

  #draw(boxes) {
    const path = pathOf(boxes);
    const [width, height] = this.size ?? [0, 0];
    this.cells.setAttribute("d", path);
    this.veil.setAttribute("d", boxes.length ? `M0,0H${width}V${height}H0Z${path}` : "");
  }
}

/** @param {number[][]} boxes x0, y0, x1, y1 each */
export const pathOf = (boxes) => boxes.map(([x0, y0, x1, y1]) => `M${x0},${y0}H${x1}V${y1}H${x0}Z`).join("");

/** Kept cells, neighbours in a row as one box: x0, y0, x1, y1 within the picture. */
export function boxesOf({ x, y, cells }, [width, height]) {
  const within = (value, most) => Math.min(Math.max(value, 0), most);
  const boxes = [];
  cells.forEach((row, line) => {
    for (let start = 0; start < row.length; start += 1) {
      if (!row[start]) continue;
      let end = start;
      while (row[end]) end += 1;
      boxes.push([within(x[start], width), within(y[line], height), within(x[end], width), within(y[line + 1], height)]);
      start = end;
    }
  });
  return boxes;
}
