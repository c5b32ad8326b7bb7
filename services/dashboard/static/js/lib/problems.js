// Errors in plain words: what happened, what to do, and the code to look up or to report.
import { h } from "./dom.js";

/** An error that a user gets to see. `code` is stable; `detail` is the service's own sentence. */
export class Problem extends Error {
  /** @param {{code: string, title?: string, detail: string, status?: number, param?: string}} document */
  constructor(document) {
    super(document.detail);
    this.code = document.code;
    this.status = document.status ?? 0;
    this.title = document.title ?? "";
    this.param = document.param ?? null;
  }
}

const WORDS = {
  connection_lost: ["The connection was lost", "The server does not answer. It may be restarting: try again in a moment."],
  unavailable: ["The service cannot be reached", "It is not running, or just starting. The Status page shows which one."],
  registry_unavailable: ["The registry cannot be reached", "The database is away. Nothing is lost; try again in a moment."],
  shutting_down: ["The server is shutting down", "Try again in a moment."],
  device_failed: ["The device failed", "The server starts again by itself: try again in a minute."],
  out_of_memory: ["The model ran out of memory", "Try a smaller picture or a smaller budget."],
  queue_full: ["Too many requests at once", "Wait a moment, then try again."],
  unauthorized: ["An API key is needed", ""],
  forbidden: ["Your API key may not do this", "Forget the key, and give one that may. Whoever made it can make another with more scopes."],
  no_image: ["A picture is needed", "Upload one, or take a sample page."],
  invalid_image: ["This is not a picture we can read", "Take a PNG, JPEG, WebP, GIF or BMP file of one frame."],
  image_too_large: ["This picture is too large", "Make it smaller, then try again."],
  payload_too_large: ["This is too large to send", "Take a smaller file."],
  empty_prompt: ["The question is empty", "Write what you want to know about the picture."],
  prompt_too_long: ["The question or picture is too long for this model", "Shorten it, or take a smaller picture."],
  request_too_large: ["This cannot fit the KV memory", "Take a smaller budget, or a smaller picture."],
  budget_too_small: ["The budget is too small", "Move the slider up."],
  no_map_for_model: ["This model has no head map yet", "Start a profile on the Jobs page."],
  model_not_found: ["There is no such model here", ""],
  map_not_found: ["There is no such map", "It may belong to another registry."],
  map_mismatch: ["The map does not fit the model", ""],
  invalid_scores: ["This is not a head map", "It is a JSON object: one score, or a list of them, for each “layer-head”."],
  job_not_succeeded: ["The evaluation has not succeeded", ""],
  nothing_recommended: ["Nothing is recommended", "Choose a point of the table."],
  job_ended: ["The job has already ended", ""],
};

/** What happened, in a few words. @param {Problem} problem */
export const headline = (problem) => WORDS[problem.code]?.[0] || problem.title || "Something went wrong";

/**
 * A problem as a box. `action`: a button's text and what it does.
 * @param {unknown} error @param {{text: string, run: () => void}} [action]
 */
export function notice(error, action) {
  const problem = asProblem(error);
  const advice = WORDS[problem.code]?.[1];
  return h(
    "div",
    { class: "notice error", role: "alert" },
    h("p", { class: "notice-title" }, headline(problem)),
    advice ? h("p", {}, advice) : null,
    h("p", { class: "notice-detail" }, problem.message, " ", h("code", {}, problem.code)),
    action ? h("button", { type: "button", onclick: action.run }, action.text) : null,
  );
}

/** @param {unknown} error @returns {Problem} */
export function asProblem(error) {
  if (error instanceof Problem) return error;
  console.error(error);
  return new Problem({ code: "page_error", title: "This page made a mistake", detail: String(error) });
}

/** What failed when nothing at all came back. */
export const lost = () => new Problem({ code: "connection_lost", detail: "no answer from the server" });
