// Status: every replica of every service, what runs and waits, KV memory, tokens per second; looked at again and again.
import { own } from "../lib/api.js";
import { byId, h, repeat } from "../lib/dom.js";
import { bytes, count, counted, milliseconds } from "../lib/format.js";
import { Meter } from "../lib/meter.js";
import { notice } from "../lib/problems.js";
import { Line } from "../lib/line.js";

const SECONDS = 2;
const KEPT_LOOKS = 60;
const WINDOW_SECONDS = 10;
const LEVELS = { ok: ["good", "ready"], degraded: ["warn", "degraded"], unavailable: ["bad", "unavailable"] };
const NAMES = { headmap: "Headmap, all on one port", scoring: "Scoring", inference: "Inference", "scoring-api": "Scoring" };

const page = byId("status");
/** Looks so far, the newest last: when, and how many tokens had been generated in all. @type {{at: number, tokens: number}[]} */
let looks = [];
/** @type {number[]} */
const speeds = [];

const running = figure("Requests running");
const waiting = figure("Requests waiting");
const speed = figure("Tokens per second");
const first = figure("Time to first token, mean");
const speedLine = new Line("Tokens per second over the last two minutes");
const memory = h("div", { class: "stack" });
const services = h("tbody");
const jobs = h("div", { class: "row" });
const meters = new Map();

page.append(
  h("div", { class: "tiles" }, running.element, waiting.element, speed.element, first.element),
  h(
    "div",
    { class: "halves" },
    h("section", { class: "panel stack", "aria-labelledby": "memory-title" }, h("h2", { id: "memory-title" }, "KV memory"), memory),
    h("section", { class: "panel stack", "aria-labelledby": "speed-title" }, h("h2", { id: "speed-title" }, "Tokens per second"), speedLine.element),
  ),
  h(
    "section",
    { class: "panel stack", "aria-labelledby": "services-title" },
    h("h2", { id: "services-title" }, "Services"),
    h("div", { class: "table-wrap", tabindex: 0, role: "region", "aria-labelledby": "services-title" }, h("table", { class: "services" }, h("thead", {}, h("tr", {}, ...["Service", "Address", "State", "Checks"].map((text) => h("th", { scope: "col" }, text)))), services)),
  ),
  h("section", { class: "panel stack", "aria-labelledby": "jobs-title" }, h("div", { class: "row between" }, h("h2", { id: "jobs-title" }, "Scoring jobs"), h("a", { href: "/dashboard/jobs" }, "All jobs")), jobs),
);

function figure(label) {
  const value = h("dd", { class: "tile-value" }, "–");
  return { value, element: h("dl", { class: "panel tile" }, h("dt", {}, label), value) };
}

async function look() {
  try {
    show((await own("/status")).replicas);
    byId("problem").replaceChildren();
  } catch (error) {
    byId("problem").replaceChildren(notice(error));
    page.classList.add("stale");
  }
}

function show(replicas) {
  page.classList.remove("stale");
  page.removeAttribute("aria-busy");
  const loads = replicas.flatMap((replica) => replica.models.map((load) => ({ ...load, replica })));
  const sum = (field) => loads.reduce((total, load) => total + load[field], 0);
  running.value.textContent = count(sum("running"));
  waiting.value.textContent = count(sum("waiting"));
  first.value.textContent = sum("first_tokens") ? milliseconds((1000 * sum("first_token_seconds")) / sum("first_tokens")) : "–";
  showSpeed(sum("generated_tokens"));
  showMemory(loads);
  services.replaceChildren(...replicas.map(service));
  showJobs(replicas.find((replica) => replica.jobs)?.jobs);
}

/** Over the last seconds: a request is counted when it has ended, so two looks alone would jump. */
function showSpeed(tokens) {
  const now = performance.now() / 1000;
  const before = looks.at(-1);
  if (before && tokens < before.tokens) looks = []; // a replica has started again and counts from nothing
  looks.push({ at: now, tokens });
  looks = looks.slice(-KEPT_LOOKS);
  const from = looks.find((one) => now - one.at <= WINDOW_SECONDS) ?? looks[0];
  const value = now > from.at ? (tokens - from.tokens) / (now - from.at) : 0;
  speeds.push(value);
  if (speeds.length > KEPT_LOOKS) speeds.shift();
  speed.value.textContent = value >= 10 || value === 0 ? count(value) : value.toFixed(1);
  speedLine.show(speeds, KEPT_LOOKS);
}

function showMemory(loads) {
  if (!loads.length) {
    memory.replaceChildren(h("p", { class: "hint" }, "No inference service tells its figures."));
    return;
  }
  const several = new Set(loads.map((load) => load.replica.address)).size > 1;
  const shown = loads.map((load) => {
    const name = several ? `${load.model} on ${load.replica.address}` : load.model;
    if (!meters.has(name)) meters.set(name, new Meter(name));
    const meter = meters.get(name);
    const free = load.capacity_bytes - load.reserved_bytes;
    meter.show(load.capacity_bytes ? load.reserved_bytes / load.capacity_bytes : 0, `${bytes(load.reserved_bytes)} used, ${bytes(free)} free`);
    const saved = load.full_bytes ? `; ${bytes(load.full_bytes - load.kept_bytes)} of ${bytes(load.full_bytes)} never held` : "";
    return h("div", { class: "stack tight" }, meter.element, h("p", { class: "hint" }, `${counted(load.finished, "request")} answered, ${count(load.failed)} failed${saved}`));
  });
  memory.replaceChildren(...shown);
}

function service(replica) {
  const [kind, word] = LEVELS[replica.status];
  const checks = replica.checks.map(({ name, status, detail }) => h("div", { class: status === "ok" ? "" : "trouble" }, `${name}: ${status}${detail ? `, ${detail}` : ""}`));
  return h(
    "tr",
    {},
    h("td", { class: "strong" }, NAMES[replica.service] ?? replica.service),
    h("td", {}, h("code", {}, replica.address)),
    h("td", {}, h("span", { class: `tag ${kind}` }, word)),
    h("td", {}, replica.detail || (checks.length ? checks : "nothing to check")),
  );
}

function showJobs(counts) {
  if (!counts) {
    jobs.replaceChildren(h("p", { class: "hint" }, "The scoring service does not tell."));
    return;
  }
  const kinds = { running: "accent", queued: "", succeeded: "good", failed: "bad", cancelled: "" };
  jobs.replaceChildren(...Object.entries(kinds).map(([state, kind]) => h("span", { class: `tag ${counts[state] ? kind : ""}` }, `${count(counts[state] ?? 0)} ${state}`)));
}

repeat(look, () => SECONDS);
