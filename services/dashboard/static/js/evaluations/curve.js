// The curve: how many answers are right at each share of the prompt, a line for each method and selector, the full cache as a band.
import { h, s } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { caseName, isSameCase, nameOf, selectorLabel } from "../lib/methods.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 280, 48, 16, 12, 44];
const FULL = "full";

/**
 * @param {any[]} points as the API has them @param {any} recommended a case, or null
 * @param {number} [at] a share of the prompt to mark
 * @returns {HTMLElement} a figure with its keys
 */
export function curve(points, recommended, at) {
  const full = points.find((point) => point.method === FULL);
  const others = points.filter((point) => point.method !== FULL);
  const lines = seriesOf(others);
  const most = Math.max(0.1, ...others.map((point) => point.ratio)) * 1.04;
  const x = (ratio) => LEFT + (ratio / most) * (WIDTH - LEFT - RIGHT);
  const y = (share) => HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
  return h(
    "figure",
    { class: "stack tight" },
    s(
      "svg",
      { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Share of right answers by the share of the prompt that is kept, for ${lines.map((one) => one.name).join(", ")} and the full cache; the table below has the figures` },
      rules(x, y, others),
      full ? band(full, y) : null,
      at !== undefined && at <= most ? s("path", { class: "curve-at", d: `M${x(at)},${TOP}V${y(0)}` }) : null,
      lines.map((one) => line(one, x, y)),
      recommended ? ring(lines, recommended, x, y) : null,
      s("text", { class: "chart-text", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "Share of the prompt kept"),
    ),
    h(
      "figcaption",
      { class: "chart-keys" },
      lines.map(({ name, style }) => h("span", {}, s("svg", { class: `key-line ${style}`, viewBox: "0 0 28 8", "aria-hidden": "true" }, s("path", { class: "curve-line", d: "M0,4H28" })), name)),
      full ? h("span", { class: "key band-key" }, "Full cache") : null,
      h("span", {}, "with 95 % intervals"),
      recommended ? h("span", { class: "key ring-key" }, "recommended") : null,
    ),
  );
}

/** The points of each method and selector. A method has one colour; of several selectors, each has one kind of line. */
function seriesOf(points) {
  const methods = [...new Set(points.map((point) => point.method))];
  const selectors = [...new Set(points.map((point) => JSON.stringify(point.select)))];
  const bySelector = selectors.length > 1;
  const found = methods.flatMap((method, hue) =>
    selectors.map((select, dashes) => ({
      points: points.filter((point) => point.method === method && JSON.stringify(point.select) === select),
      name: bySelector ? `${nameOf(method)}, ${selectorLabel(JSON.parse(select))}` : nameOf(method),
      style: `series-${hue % 5}${bySelector ? ` dashes-${dashes % 4}` : ""}`,
      bySelector,
    })),
  );
  // intervals of lines at one share stand beside each other
  return found.map((one, place) => ({ ...one, nudge: (place - (found.length - 1) / 2) * 3 }));
}

function rules(x, y, points) {
  const ratios = [...new Set(points.map((point) => point.ratio))].sort((a, b) => a - b);
  let last = -Infinity;
  const apart = ratios.filter((ratio) => x(ratio) - last > 36 && ((last = x(ratio)), true));
  return [
    ...[0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
      s("path", { class: "chart-rule", d: `M${LEFT},${y(share)}H${WIDTH - RIGHT}` }),
      s("text", { class: "chart-text", x: LEFT - 8, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
    ]),
    ...apart.map((ratio) => s("text", { class: "chart-text", x: x(ratio), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, `${Number((ratio * 100).toFixed(2))} %`)),
  ];
}

function band({ interval: [low, high], right }, y) {
  return s(
    "g",
    {},
    s("rect", { class: "curve-band", x: LEFT, width: WIDTH - LEFT - RIGHT, y: y(high), height: Math.max(1, y(low) - y(high)) }),
    s("path", { class: "curve-full", d: `M${LEFT},${y(right)}H${WIDTH - RIGHT}` }),
  );
}

function line({ points, style, nudge, bySelector }, x, y) {
  const at = (point) => x(point.ratio) + nudge;
  return s(
    "g",
    { class: style },
    s("path", { class: "curve-line", d: points.map((point, index) => `${index ? "L" : "M"}${at(point).toFixed(1)},${y(point.right).toFixed(1)}`).join("") }),
    points.map((point) => s("path", { class: "curve-range", d: `M${at(point)},${y(point.interval[0])}V${y(point.interval[1])}` })),
    points.map((point) => s("circle", { class: "curve-point", cx: at(point), cy: y(point.right), r: 3.5 }, s("title", {}, `${caseName(point, bySelector)}: ${percent(point.right)} right`))),
  );
}

function ring(lines, recommended, x, y) {
  const [found] = lines.flatMap(({ points, nudge }) => points.filter((one) => isSameCase(one, recommended)).map((point) => ({ point, nudge })));
  return found ? s("circle", { class: "curve-ring", cx: x(found.point.ratio) + found.nudge, cy: y(found.point.right), r: 8 }) : null;
}
