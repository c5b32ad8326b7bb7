// The newest curve of a model, for pages that show it beside something else.
import { get, list } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { count } from "../lib/format.js";
import { curve } from "./curve.js";

/**
 * The curve made with this map, else the newest of its model: `draw` makes it with a share of the prompt marked.
 * @param {any} map @returns {Promise<{draw: (share: number) => HTMLElement, about: string}>}
 */
export async function newestCurve(map) {
  const found = await list("/evaluations", { model: map.model, state: "succeeded" }, 50);
  const chosen = found.find((one) => one.map_id === map.id) ?? found[0];
  if (!chosen) return { draw: none, about: "" };
  const { id, params, result } = chosen.result ? chosen : await get(`/evaluations/${chosen.id}`);
  const draw = (share) => h("div", { class: "stack tight" }, curve(result.points, result.recommended, share), h("a", { href: `/dashboard/evaluations?evaluation=${id}` }, "All figures and answers"));
  return { draw, about: `${count(result.points[0].total)} questions of ${params.dataset}${chosen.map_id === map.id ? "" : ", with another map"}` };
}

const none = () => h("p", { class: "hint" }, "Not known yet. ", h("a", { href: "/dashboard/evaluations" }, "Start an evaluation"), " to see how small the cache may be.");
