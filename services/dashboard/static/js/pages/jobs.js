// Jobs: start a profile, watch it, cancel it, try it again.
import { get, list, post, servedModels } from "../lib/api.js";
import { announce, byId, h, repeat } from "../lib/dom.js";
import { notice } from "../lib/problems.js";
import { JobCard } from "../jobs/card.js";

const SHOWN = 50;
const [BUSY_SECONDS, IDLE_SECONDS] = [1, 5];

const form = byId("start");
const shown = byId("jobs");
/** @type {Map<string, JobCard>} */
const cards = new Map();
let busy = true;

const look = repeat(show, () => (busy ? BUSY_SECONDS : IDLE_SECONDS));

async function show() {
  let jobs;
  try {
    jobs = await list("/score", {}, SHOWN);
    byId("list-problem").replaceChildren();
  } catch (error) {
    byId("list-problem").replaceChildren(notice(error, { text: "Try again", run: look }));
    return;
  } finally {
    shown.removeAttribute("aria-busy");
  }
  busy = jobs.some((job) => job.state === "queued" || job.state === "running");
  byId("empty").hidden = jobs.length > 0;
  jobs.forEach((job, place) => {
    const card = cards.get(job.id) ?? new JobCard(job.id, { changed: look, start });
    cards.set(job.id, card);
    card.show(job);
    if (shown.children[place] !== card.element) shown.insertBefore(card.element, shown.children[place] ?? null);
  });
}

/** Start a profile; returns whether it is a job of its own. @param {object} body */
async function start(body) {
  const job = await post("/score", body);
  const known = cards.has(job.id);
  busy = true;
  await look();
  cards.get(job.id)?.point();
  announce(known ? "An equal profile is already here" : "The profile has started");
  return !known;
}

const auto = () => form.elements["how-many"].value === "auto";

form.addEventListener("change", () => {
  for (const [id, shown] of [["pages-number", !auto()], ["pages-auto", auto()]]) byId(id).hidden = byId(id).disabled = !shown;
});
form.dispatchEvent(new Event("change")); // a browser may have kept the choice over a reload

/** The fields that say how many pages; what is left empty is for the server to choose. */
function pages() {
  if (!auto()) return { pages: Number(byId("pages").value) };
  const given = (id, part = 1) => (byId(id).value === "" ? null : Number(byId(id).value) / part);
  return { pages: "auto", min_pages: given("min-pages"), max_pages: given("max-pages"), stable_overlap: given("overlap", 100) };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const place = byId("start-problem");
  place.replaceChildren();
  try {
    const fresh = await start({
      model: byId("model").value.trim(),
      revision: byId("revision").value.trim() || null,
      dataset: byId("dataset").value.trim(),
      ...pages(),
      rule: byId("rule").value,
      seed: Number(byId("seed").value),
      max_new_tokens: Number(byId("new-tokens").value),
      promote: { auto: "auto", yes: true, no: false }[byId("promote").value],
      force: byId("force").checked,
    });
    if (!fresh) place.replaceChildren(h("p", { class: "notice" }, "An equal profile is already here: it is shown in the list. Tick “Start again” under More for another one."));
  } catch (error) {
    place.replaceChildren(notice(error));
  }
});

// What can be chosen. Where the services are away the list of jobs says so, and a name can still be typed.
const [models, datasets] = await Promise.all([servedModels(), get("/datasets", { limit: 100 })].map((one) => one.catch(() => null)));
offer("models", models?.map((one) => one.id));
offer("datasets", datasets && [...datasets.built_in, ...datasets.items].map((one) => one.name));
byId("model").value ||= models?.[0]?.id ?? "";

function offer(id, names) {
  byId(id).replaceChildren(...(names ?? []).map((value) => h("option", { value })));
}
