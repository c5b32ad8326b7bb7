// One evaluation that has succeeded: what it recommends, its curve, its figures and the answers that differ.
import { get } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { bytes, count, percent } from "../lib/format.js";
import { caseName, isSameCase, selectorLabel } from "../lib/methods.js";
import { Answers } from "./answers.js";
import { curve } from "./curve.js";
import { pointsTable } from "./points.js";
import { servePoint } from "./serve.js";

export class EvaluationView {
  /** @param {any} evaluation with its result */
  constructor(evaluation) {
    const { result, params } = evaluation;
    this.evaluation = evaluation;
    this.bySelector = params.selectors.length > 1;
    this.served = h("p", { class: "notice", hidden: true, role: "status" });
    const answers = new Answers(evaluation);
    const serve = (point) => servePoint(evaluation, point, (policy) => this.#tellServed(policy));
    this.title = h("h2", { id: "view-title", tabindex: -1 }, `${evaluation.model} on ${params.dataset}`);
    this.element = h(
      "div",
      { class: "stack", "data-evaluation": evaluation.id },
      h(
        "section",
        { class: "panel stack", "aria-labelledby": "view-title" },
        h("div", { class: "row between" }, this.title, map(evaluation)),
        this.#verdict(serve),
        this.served,
        curve(result.points, result.recommended),
        pointsTable(result.points, result.recommended, serve, this.bySelector),
      ),
      answers.element,
    );
    answers.show();
  }

  #verdict(serve) {
    const { result, params } = this.evaluation;
    const { recommended, points } = result;
    const full = points.find((point) => point.method === "full");
    const asked = `${count(full.total)} questions, marked with ${params.metric}${selectedBy(params)}. The full cache has ${percent(full.right)} right.`;
    if (!recommended) {
      return h("div", { class: "notice warn" }, h("p", { class: "notice-title" }, "None of these sizes is shown to hold"), h("p", {}, `${asked} No cache here loses less than ${percent(params.margin)} with 95 % confidence. Ask more questions, allow a larger margin, or try larger sizes.`));
    }
    const point = points.find((one) => isSameCase(one, recommended));
    return h(
      "div",
      { class: "notice good" },
      h("p", { class: "notice-title" }, `${caseName(point, this.bySelector)} holds`),
      h("p", {}, `${asked} This one has ${percent(point.right)} and keeps ${percent(point.kept_bytes / full.kept_bytes)} of the KV memory: ${bytes(point.kept_bytes)} instead of ${bytes(full.kept_bytes)} a prompt. With 95 % confidence it loses less than ${percent(params.margin)}.`),
      h("button", { type: "button", class: "primary", onclick: () => serve(point) }, "Serve this"),
    );
  }

  #tellServed(policy) {
    this.served.hidden = false;
    this.served.replaceChildren(h("span", {}, `Served as ${policy.model}@${policy.name}, version ${policy.version}. `, h("a", { href: "/" }, "Try it in the playground"), "."));
  }
}

const selectedBy = ({ methods, selectors }) => (methods.some((one) => one !== "full") ? `, tokens selected by ${selectors.map(selectorLabel).join(" or ")}` : "");

function map({ map_id: id, map_version: version }) {
  if (!id) return h("span", { class: "hint" }, "without a map");
  return h("a", { href: `/dashboard/maps?map=${id}` }, version ? `Map, version ${version}` : "Map");
}

/** @param {string} id @returns {Promise<any>} */
export const readEvaluation = (id) => get(`/evaluations/${id}`);
