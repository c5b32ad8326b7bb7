// One job: how far it is, what it was asked, why it failed, what can be done with it.
import { remove } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { count, counted, duration, percent, time } from "../lib/format.js";
import { notice } from "../lib/problems.js";
import { Meter } from "../lib/meter.js";

const KINDS = { queued: "", running: "accent", succeeded: "good", failed: "bad", cancelled: "" };

export class JobCard {
  /** @param {string} id @param {{changed: () => void, start: (body: object) => Promise<unknown>}} calls */
  constructor(id, { changed, start }) {
    this.id = id;
    this.changed = changed;
    this.start = start;
    this.job = null;
    this.state = h("span", { class: "tag" });
    this.title = h("h3", { class: "job-title", tabindex: -1 });
    this.asked = h("p", { class: "hint" });
    this.progress = new Meter("Pages read");
    this.timing = h("p", { class: "hint" });
    this.reason = h("p", { class: "notice error", hidden: true });
    this.problem = h("div");
    this.cancelButton = h("button", { type: "button", class: "danger", onclick: () => this.#act(() => remove(`/score/${id}`)) }, "Cancel");
    this.retryButton = h("button", { type: "button", onclick: () => this.#act(() => start(this.#again())) }, "Try again");
    this.mapLink = h("a", { class: "button" }, "Open the map");
    this.element = h(
      "li",
      { class: "panel job", "data-job": id },
      h("div", { class: "row between" }, h("div", { class: "row" }, this.title, this.state), h("div", { class: "row" }, this.mapLink, this.retryButton, this.cancelButton)),
      this.asked,
      this.progress.element,
      this.timing,
      this.reason,
      this.problem,
    );
  }

  /** @param {any} job as the API tells it */
  show(job) {
    const before = this.job?.state;
    this.job = job;
    const { params, progress, state } = job;
    const active = state === "queued" || state === "running";
    this.state.className = `tag ${KINDS[state]}`;
    this.state.textContent = state;
    this.element.dataset.state = state;
    this.title.textContent = job.model;
    this.asked.textContent = `${pagesOf(params)} of ${params.dataset}, rule ${params.rule}, seed ${params.seed}, at most ${counted(params.max_new_tokens, "token")} each`;
    this.progress.show(progress.done / progress.total, `${count(progress.done)} of ${count(progress.total)}${active && params.pages === "auto" ? " so far" : ""}`);
    this.timing.textContent = timing(job);
    const reason = job.error ? `Why it failed: ${job.error}` : job.waits_for ? `It waits: ${job.waits_for}` : "";
    this.reason.hidden = !reason;
    this.reason.textContent = reason;
    this.cancelButton.hidden = !active;
    this.retryButton.hidden = state !== "failed" && state !== "cancelled";
    this.mapLink.hidden = !job.map_id;
    this.mapLink.href = `/dashboard/maps?map=${job.map_id}`;
    if (before && before !== state) this.problem.replaceChildren();
  }

  /** Bring it into view and let the keyboard go on from it. */
  point() {
    this.title.focus({ preventScroll: true });
    this.element.scrollIntoView({ block: "nearest" });
  }

  #again() {
    const { dataset_checksum, ...params } = this.job.params; // told, not asked
    return { model: this.job.model, ...params, force: true };
  }

  async #act(work) {
    this.problem.replaceChildren();
    this.element.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (error) {
      this.problem.replaceChildren(notice(error));
    } finally {
      this.element.removeAttribute("aria-busy");
      this.changed();
    }
  }
}

function pagesOf(params) {
  if (params.pages !== "auto") return counted(params.pages, "page");
  return `${count(params.min_pages)} to ${counted(params.max_pages, "page")}, until ${percent(params.stable_overlap)} of the top heads agree,`;
}

/** When it began, how long it took, how long it still takes, how often a part had to be tried. */
function timing(job) {
  const parts = [];
  const seconds = (from, to) => (new Date(to) - new Date(from)) / 1000;
  const now = Date.now();
  if (!job.started_at) parts.push(job.finished_at ? `asked for ${time(job.created_at)}` : `waiting for ${duration(seconds(job.created_at, now))}`);
  else if (job.finished_at) parts.push(`${time(job.started_at)}, took ${duration(seconds(job.started_at, job.finished_at))}`);
  else {
    const run = seconds(job.started_at, now);
    parts.push(`running for ${duration(run)}`);
    const { done, total } = job.progress;
    if (done && job.params.pages !== "auto") parts.push(`about ${duration((run * (total - done)) / done)} to go`);
  }
  if (job.attempts > 1) parts.push(`a part was tried ${counted(job.attempts, "time")}`);
  return parts.join("; ");
}
