// The figures behind the curve: a row for each method, selector and share of the prompt.
import { h } from "../lib/dom.js";
import { bytes, count, milliseconds, percent } from "../lib/format.js";
import { caseName, isSameCase } from "../lib/methods.js";

const COLUMNS = ["Cache", "Right", "95 % interval", "Against full", "Loss below", "Kept", "KV memory", "A step", ""];

/**
 * @param {any[]} points @param {any} recommended a case, or null
 * @param {(point: any) => void} serve makes a policy of a point @param {boolean} bySelector whether names tell the selector
 */
export function pointsTable(points, recommended, serve, bySelector) {
  const is = (point) => recommended !== null && isSameCase(point, recommended);
  return h(
    "div",
    { class: "table-wrap", tabindex: 0, role: "region", "aria-label": "Every method and share" },
    h(
      "table",
      { class: "points" },
      h("thead", {}, h("tr", {}, COLUMNS.map((text, place) => h("th", { scope: "col", class: place ? "number" : "" }, text)))),
      h("tbody", {}, points.map((point) => row(point, is(point), serve, bySelector))),
    ),
  );
}

function row(point, isRecommended, serve, bySelector) {
  const name = caseName(point, bySelector);
  const full = point.method === "full";
  const cells = [
    `${percent(point.right)} of ${count(point.total)}`,
    range(point.interval),
    full ? "–" : `${signed(point.difference_to_full)} (${range(point.difference_interval)})`,
    full ? "–" : percent(Math.max(0, point.loss_below)),
    `${count(point.kept_tokens)} tokens`,
    bytes(point.kept_bytes),
    point.token_ms === null ? "–" : milliseconds(point.token_ms),
  ];
  return h(
    "tr",
    { "data-case": name },
    h("td", {}, name, isRecommended ? h("span", { class: "tag good" }, "recommended") : null),
    cells.map((cell, place) => h("td", { class: place === 1 || place === 2 ? "number wrap" : "number" }, cell)),
    h("td", {}, h("button", { type: "button", class: "link", "aria-label": `Serve ${name}`, onclick: () => serve(point) }, "Serve")),
  );
}

const signed = (share) => (share === 0 ? "0 %" : `${share > 0 ? "+" : "−"}${percent(Math.abs(share))}`);
const range = ([low, high]) => `${end(low)} to ${end(high)}`;
const end = (share) => `${share < 0 ? "−" : ""}${percent(Math.abs(share))}`.replace(" ", "\u00a0");
