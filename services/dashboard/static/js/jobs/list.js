// The list of all jobs of a kind, kept up to date, and starting one.
import { list, post } from "../lib/api.js";
import { announce, byId, repeat } from "../lib/dom.js";
import { notice } from "../lib/problems.js";
import { JobCard } from "./card.js";

const SHOWN = 50;
const [BUSY_SECONDS, IDLE_SECONDS] = [1, 5];

export class JobList {
  /** Fills #jobs. @param {import("./card.js").Kind} kind @param {string} noun @param {(jobs: any[]) => void} [onShow] */
  constructor(kind, noun, onShow = () => {}) {
    this.kind = kind;
    this.noun = noun;
    this.onShow = onShow;
    /** @type {Map<string, JobCard>} */
    this.cards = new Map();
    this.busy = true;
    this.look = repeat(() => this.#show(), () => (this.busy ? BUSY_SECONDS : IDLE_SECONDS));
  }

  /** Start a job; returns whether it is one of its own. @param {object} body */
  async start(body) {
    const job = await post(this.kind.path, body);
    const known = this.cards.has(job.id);
    this.busy = true;
    await this.look();
    this.cards.get(job.id)?.point();
    announce(known ? `An equal ${this.noun} is already here` : `The ${this.noun} has started`);
    return !known;
  }

  async #show() {
    const shown = byId("jobs");
    let jobs;
    try {
      jobs = await list(this.kind.path, {}, SHOWN);
      byId("list-problem").replaceChildren();
    } catch (error) {
      byId("list-problem").replaceChildren(notice(error, { text: "Try again", run: this.look }));
      return;
    } finally {
      shown.removeAttribute("aria-busy");
    }
    this.busy = jobs.some((job) => job.state === "queued" || job.state === "running");
    byId("empty").hidden = jobs.length > 0;
    jobs.forEach((job, place) => {
      const card = this.cards.get(job.id) ?? new JobCard(job.id, this.kind, { changed: this.look, start: (body) => this.start(body) });
      this.cards.set(job.id, card);
      card.show(job);
      if (shown.children[place] !== card.element) shown.insertBefore(card.element, shown.children[place] ?? null);
    });
    this.onShow(jobs);
  }
}

/** Send the form and say what became of it. @param {() => Promise<boolean>} start @param {string} noun */
export async function submitJob(start, noun) {
  const place = byId("start-problem");
  place.replaceChildren();
  try {
    if (await start()) return;
    const told = Object.assign(document.createElement("p"), { className: "notice", textContent: `An equal ${noun} is already here: it is shown in the list. Tick “Start again” under More for another one.` });
    place.replaceChildren(told);
  } catch (error) {
    place.replaceChildren(notice(error));
  }
}
