// One job: how far it is, what it was asked, why it failed, what can be done with it.
import { remove } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { count, counted, duration, time } from "../lib/format.js";
import { notice } from "../lib/problems.js";
import { Meter } from "../lib/meter.js";

const TAGS = { queued: "", running: "accent", succeeded: "good", failed: "bad", cancelled: "" };

/**
 * What sets one kind of job apart. `again`: the body that starts an equal one; `result`: where its result is seen.
 * @typedef {{path: string, progress: string, asked: (job: any) => string, isOpenEnded: (job: any) => boolean,
 *   again: (job: any) => object, result: (job: any) => {text: string, href: string} | null}} Kind
 */

export class JobCard {
  /** @param {string} id @param {Kind} kind @param {{changed: () => void, start: (body: object) => Promise<unknown>}} calls */
  constructor(id, kind, { changed, start }) {
    this.id = id;
    this.kind = kind;
    this.changed = changed;
    this.start = start;
    this.job = null;
    this.state = h("span", { class: "tag" });
    this.title = h("h3", { class: "job-title", tabindex: -1 });
    this.asked = h("p", { class: "hint" });
    this.progress = new Meter(kind.progress);
    this.timing = h("p", { class: "hint" });
    this.reason = h("p", { class: "notice error", hidden: true });
    this.problem = h("div");
    this.cancelButton = h("button", { type: "button", class: "danger", onclick: () => this.#act(() => remove(`${kind.path}/${id}`)) }, "Cancel");
    this.retryButton = h("button", { type: "button", onclick: () => this.#act(() => start(kind.again(this.job))) }, "Try again");
    this.resultLink = h("a", { class: "button" });
    this.element = h(
      "li",
      { class: "panel job", "data-job": id },
      h("div", { class: "row between" }, h("div", { class: "row" }, this.title, this.state), h("div", { class: "row" }, this.resultLink, this.retryButton, this.cancelButton)),
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
    const { progress, state } = job;
    const active = state === "queued" || state === "running";
    this.state.className = `tag ${TAGS[state]}`;
    this.state.textContent = state;
    this.element.dataset.state = state;
    this.title.textContent = job.model;
    this.asked.textContent = this.kind.asked(job);
    this.progress.show(progress.done / progress.total, `${count(progress.done)} of ${count(progress.total)}${active && this.kind.isOpenEnded(job) ? " so far" : ""}`);
    this.timing.textContent = timing(job, this.kind.isOpenEnded(job));
    const reason = job.error ? `Why it failed: ${job.error}` : job.waits_for ? `It waits: ${job.waits_for}` : "";
    this.reason.hidden = !reason;
    this.reason.textContent = reason;
    this.cancelButton.hidden = !active;
    this.retryButton.hidden = state !== "failed" && state !== "cancelled";
    const result = this.kind.result(job);
    this.resultLink.hidden = !result;
    if (result) [this.resultLink.textContent, this.resultLink.href] = [result.text, result.href];
    if (before && before !== state) this.problem.replaceChildren();
  }

  /** Bring it into view and let the keyboard go on from it. */
  point() {
    this.title.focus({ preventScroll: true });
    this.element.scrollIntoView({ block: "nearest" });
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

/** When it began, how long it took, how long it still takes, how often a part had to be tried. */
function timing(job, isOpenEnded) {
  const parts = [];
  const seconds = (from, to) => (new Date(to) - new Date(from)) / 1000;
  const now = Date.now();
  if (!job.started_at) parts.push(job.finished_at ? `asked for ${time(job.created_at)}` : `waiting for ${duration(seconds(job.created_at, now))}`);
  else if (job.finished_at) parts.push(`${time(job.started_at)}, took ${duration(seconds(job.started_at, job.finished_at))}`);
  else {
    const run = seconds(job.started_at, now);
    parts.push(`running for ${duration(run)}`);
    const { done, total } = job.progress;
    if (done && !isOpenEnded) parts.push(`about ${duration((run * (total - done)) / done)} to go`);
  }
  if (job.attempts > 1) parts.push(`a part was tried ${counted(job.attempts, "time")}`);
  return parts.join("; ");
}
