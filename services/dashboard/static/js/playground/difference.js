// What one KV head keeps of a picture by two choices of tokens: by both of them, and by only one.
import { h, newId, s } from "../lib/dom.js";
import { count } from "../lib/format.js";
import { nameOf } from "../lib/methods.js";
import { boxesOf, pathOf } from "./kept.js";

/** Lines of a hatch in a square of side 4: their direction tells the choices apart without colour. */
const HATCHES = { first: "M-1,1L1,-1M0,4L4,0M3,5L5,3", second: "M-1,3L1,5M0,0L4,4M3,-1L5,1" };
/** Squares of a hatch across a picture of any size. */
const SQUARES = 60;

/** Where a token belongs by who keeps it; null for what neither keeps. */
const partOf = (first, second) => (first && second ? "both" : first ? "first" : second ? "second" : null);

export class KeptDifference {
  /** @param {string} first what the first choice is called: "by the left" @param {string} second */
  constructor(first, second) {
    this.image = h("img", { alt: "" });
    this.hatches = Object.entries(HATCHES).map(([part, lines]) => hatch(part, lines));
    this.veil = s("path", { class: "kept-veil", "fill-rule": "evenodd" });
    this.parts = [new Part("both", "by both", null), new Part("first", `only ${first}`, this.hatches[0].id), new Part("second", `only ${second}`, this.hatches[1].id)];
    this.drawing = s("svg", { "aria-hidden": "true", preserveAspectRatio: "none" }, s("defs", {}, this.hatches), this.veil, this.parts.map((part) => part.area));
    this.text = h("p", { class: "hint", role: "status" });
    const columns = ["Picture", "Text"].map((of) => h("th", { scope: "col", class: "number" }, of));
    const table = h("table", {}, h("caption", { class: "unseen" }, "Tokens that the head keeps"), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Tokens kept"), columns)), h("tbody", {}, this.parts.map((part) => part.row)));
    this.element = h("div", { class: "difference" }, h("div", { class: "kept-frame" }, this.image, this.drawing), h("div", { class: "stack" }, table, this.text));
  }

  /** Give the picture its place before there are answers. @param {any} picture */
  prepare(picture) {
    const { width, height, url } = picture;
    this.size = [width, height];
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const one of this.hatches) one.setAttribute("patternTransform", `scale(${width / SQUARES / 4})`);
    Object.assign(this.image, { width, height, src: url, alt: "The picture; nothing is known to be kept of it yet" });
    this.veil.setAttribute("d", "");
    for (const part of this.parts) part.clear();
    this.text.textContent = "Ask to see the difference.";
  }

  /** @param {any} first details of an answer that was asked what a head keeps @param {any} second of the same prompt and head */
  show(first, second) {
    const [{ start, tokens, cells }] = first.kept.pictures;
    const [other] = second.kept.pictures;
    const owners = cells.map((row, y) => row.map((kept, x) => partOf(kept, other.cells[y][x])));
    const counts = { both: [0, 0], first: [0, 0], second: [0, 0] };
    const [ours, theirs] = [first, second].map(({ kept }) => new Set(kept.positions));
    for (const position of new Set([...ours, ...theirs])) {
      const ofText = position < start || position >= start + tokens;
      counts[partOf(ours.has(position), theirs.has(position))][Number(ofText)] += 1;
    }
    const abouts = { both: "", first: chooser(first.kv), second: chooser(second.kv) };
    let covered = "";
    for (const part of this.parts) {
      const path = pathOf(boxesOf({ ...first.kept.pictures[0], cells: owners.map((row) => row.map((owner) => owner === part.name)) }, this.size));
      part.show(path, counts[part.name], abouts[part.name]);
      covered += path;
    }
    this.veil.setAttribute("d", `M0,0H${this.size[0]}V${this.size[1]}H0Z${covered}`);
    const head = `KV head ${first.kept.kv_head} of layer ${first.kept.layer}`;
    this.image.alt = `The picture, with what ${head} keeps of it by both choices and by only one`;
    this.text.textContent = `${head} keeps ${count(ours.size)} tokens by one choice and ${count(theirs.size)} by the other; ${count(sum(counts.both))} of them are the same.`;
  }
}

/** Tokens with the same owner: their area of the picture, and a row of the legend that shows or hides it. */
class Part {
  constructor(name, label, hatchId) {
    this.name = name;
    this.area = s("path", { class: `difference-${name}`, fill: hatchId && `url(#${hatchId})` });
    this.about = h("span", { class: "hint block" });
    this.counts = [0, 1].map(() => h("td", { class: "number" }));
    const shown = h("input", { type: "checkbox", checked: true, onchange: () => this.area.toggleAttribute("hidden", !shown.checked) });
    this.row = h("tr", { "data-part": name }, h("th", { scope: "row" }, h("label", { class: "switch" }, shown, h("span", { class: `swatch ${name}` }), h("span", {}, label, this.about))), this.counts);
  }

  clear() {
    this.#set("", ["–", "–"], "");
  }

  /** @param {string} path @param {number[]} counts of the picture's tokens and of the text's @param {string} about */
  show(path, counts, about) {
    this.#set(path, counts.map(count), about);
  }

  #set(path, figures, about) {
    this.area.setAttribute("d", path);
    this.about.textContent = about;
    this.counts.forEach((cell, place) => (cell.textContent = figures[place]));
  }
}

/** What chose the tokens of an answer. */
const chooser = ({ method, select }) => (select ? `${nameOf(method)}, ${select.name ?? "a selector of its own"}` : nameOf(method));

const sum = ([picture, text]) => picture + text;

const hatch = (part, lines) => s("pattern", { id: newId("hatch"), class: `hatch ${part}`, width: 4, height: 4, patternUnits: "userSpaceOnUse" }, s("rect", { width: 4, height: 4 }), s("path", { d: lines }));
