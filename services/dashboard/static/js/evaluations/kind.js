// Evaluations as jobs: what a card says of them.
import { counted, percent } from "../lib/format.js";
import { nameOf, selectorLabel } from "../lib/methods.js";

/** @type {import("../jobs/card.js").Kind} */
export const evaluation = {
  path: "/evaluations",
  progress: "Questions answered",
  asked: ({ params }) => {
    const methods = params.methods.filter((one) => one !== "full").map(nameOf).join(", ") || "the full cache alone";
    const selectors = params.selectors.length > 1 ? `, each by ${params.selectors.map(selectorLabel).join(", ")}` : "";
    return `${counted(params.questions, "question")} of ${params.dataset}: ${methods} at ${params.ratios.map((one) => `${Number((one * 100).toFixed(3))}`).join(", ")} %${selectors}, margin ${percent(params.margin)}`;
  },
  isOpenEnded: () => false,
  again({ model, map_id: map, params: { dataset_checksum, ...params } }) {
    return { model, map, ...params, force: true };
  },
  result: (job) => (job.state === "succeeded" ? { text: "Open the curve", href: `/dashboard/evaluations?evaluation=${job.id}` } : null),
};
