// Profiling jobs: what a card says of them.
import { count, counted, percent } from "../lib/format.js";

/** @type {import("./card.js").Kind} */
export const profile = {
  path: "/score",
  progress: "Pages read",
  asked: ({ params }) => `${params.kind === "visual" ? "" : `${params.kind}: `}${pagesOf(params)} of ${params.dataset}, rule ${params.rule}, seed ${params.seed}, at most ${counted(params.max_new_tokens, "token")} each`,
  isOpenEnded: ({ params }) => params.pages === "auto",
  again({ model, params: { dataset_checksum, ...params } }) {
    return { model, ...params, force: true }; // the checksum is told, not asked
  },
  result: (job) => (job.map_id ? { text: "Open the map", href: `/dashboard/maps?map=${job.map_id}` } : null),
};

function pagesOf(params) {
  if (params.pages !== "auto") return counted(params.pages, "page");
  return `${count(params.min_pages)} to ${counted(params.max_pages, "page")}, until ${percent(params.stable_overlap)} of the top heads agree,`;
}
