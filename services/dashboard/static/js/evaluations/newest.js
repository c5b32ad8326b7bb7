// The newest curve of a model, for pages that show it beside something else.
import { get, list } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { count } from "../lib/format.js";
import { curve } from "./curve.js";

/**
 * The curve made with this map, else the newest of its model: `draw` makes it with a share of the prompt marked, of one
 * selector if that was measured.
 * @param {any} map @returns {Promise<{draw: (share: number, select: string) => HTMLElement, about: string}>}
 */
export async function newestCurve(map) {
  const found = await list("/evaluations", { model: map.model, state: "succeeded" }, 50);
  const chosen = found.find((one) => one.map_id === map.id) ?? found[0];
  if (!chosen) return { draw: none, about: "" };
  const { id, params, result } = chosen.result ? chosen : await get(`/evaluations/${chosen.id}`);
  const draw = (share, select) => h("div", { class: "stack tight" }, curve(...chosenBy(select, result), share), h("a", { href: `/dashboard/evaluations?evaluation=${id}` }, "All figures and answers"));
  return { draw, about: `${count(result.points[0].total)} questions of ${params.dataset}${chosen.map_id === map.id ? "" : ", with another map"}` };
}

/** The points and the recommended case of a selector, with the full cache; all of them if it was not measured. */
function chosenBy(select, { points, recommended }) {
  const own = points.filter((point) => point.method === "full" || point.select === select);
  if (!own.some((point) => point.select === select)) return [points, recommended];
  return [own, recommended?.select === select ? recommended : null];
}

const none = () => h("p", { class: "hint" }, "Not known yet. ", h("a", { href: "/dashboard/evaluations" }, "Start an evaluation"), " to see how small the cache may be.");
