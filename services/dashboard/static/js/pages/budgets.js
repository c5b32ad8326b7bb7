// Budgets: the tokens of each KV head for a prompt and a budget, and what fits a memory.
import { get, list, own, post, servedModels } from "../lib/api.js";
import { byId, h, setOptions } from "../lib/dom.js";
import { bytes, count, percent } from "../lib/format.js";
import { Grid, legend } from "../lib/grid.js";
import { Meter } from "../lib/meter.js";
import { Policies } from "../lib/policies.js";
import { notice } from "../lib/problems.js";
import { newestCurve } from "../evaluations/newest.js";
import { nameOf, otherKind } from "../maps/name.js";

const GIB = 2 ** 30;
const WAIT_MS = 120;

const form = byId("form");
const field = (name) => byId(name);
const grid = new Grid({ label: "Tokens of each KV head: layers down, KV heads across", across: "KV heads across, layers down", onLook: tell });
const scale = h("div");
byId("heads").append(grid.element, scale);
const tiles = Object.fromEntries(["Prompt kept", "Bytes a request", "Requests at a time", "With the full cache"].map((name) => [name, tile(name)]));
byId("tiles").append(...Object.values(tiles).map((one) => one.element));
const meters = { tokens: new Meter("Tokens, over all layers and KV heads"), memory: new Meter("KV memory") };
const unknown = h("p", { class: "hint", hidden: true }, "The bytes of a token are not known: this map's model is not on the server.");
byId("cost").append(meters.tokens.element, meters.memory.element, unknown);

const policies = new Policies();
byId("policies").append(policies.element);

/** @type {any[]} */
let maps = [];
/** @type {any[]} those that this server serves */
let models = [];
/** @type {(share: number) => any} */
let drawCurve = () => "";
/** @type {any} */
let last = null;
let asked = 0;
let timer = 0;

function tile(name) {
  const value = h("dd", { class: "tile-value" }, "–");
  const note = h("dd", { class: "hint" });
  return { value, note, element: h("dl", { class: "panel tile" }, h("dt", {}, name), value, note) };
}

/** The share of the prompt as tokens, rounded down as the service does. */
const budgetOf = (prompt, share) => Math.max(1, Math.floor((prompt * share) / 100 + 1e-9));

function showChoice() {
  const share = Number(field("share").value);
  const budget = budgetOf(Number(field("prompt").value), share);
  field("share-shown").textContent = `${share} %, ${count(budget)} tokens a head`;
  field("share").setAttribute("aria-valuetext", field("share-shown").textContent);
  field("uniform-shown").textContent = `${field("uniform").value} %`;
  byId("quality").replaceChildren(drawCurve(share / 100));
}

async function ask() {
  showChoice();
  if (!form.checkValidity()) return;
  const number = ++asked;
  const prompt = Number(field("prompt").value);
  try {
    const found = await get(`/maps/${field("map").value}/budgets`, {
      budget: budgetOf(prompt, Number(field("share").value)),
      prompt_tokens: prompt,
      allocation: field("allocation").value,
      window: field("window").value,
      uniform: Number(field("uniform").value) / 100,
    });
    if (number !== asked) return;
    last = found;
    byId("form-problem").replaceChildren();
    show(found);
  } catch (error) {
    if (number === asked) byId("form-problem").replaceChildren(notice(error));
  }
}

function show(found) {
  const { budgets, prompt_tokens: prompt, kept_tokens: kept, full_tokens: full } = found;
  const all = budgets.flat();
  const peak = Math.max(...all);
  const texts = budgets[0].length <= 16;
  grid.show(
    budgets.map((row, layer) =>
      row.map((tokens, head) => ({ heat: tokens / peak, text: texts ? count(tokens) : "", label: `Layer ${layer}, KV head ${head}: ${count(tokens)} of ${count(prompt)} tokens` })),
    ),
  );
  scale.replaceChildren(legend("0 tokens", `${count(peak)} tokens`));
  byId("spread").textContent = `from ${count(Math.min(...all))} to ${count(peak)} tokens`;
  tiles["Prompt kept"].value.textContent = percent(kept / full);
  meters.tokens.show(kept / full, `${count(kept)} of ${count(full)}`);
  showBytes(found.bytes_per_token_per_head, kept, full);
}

/** Bytes of a request to its end, and how many run at a time: as many as fit, and no more than the server runs. */
function showBytes(each, kept, full) {
  unknown.hidden = each !== undefined;
  meters.memory.element.hidden = each === undefined;
  const answer = Number(field("new-tokens").value) * last.budgets.length * last.budgets[0].length;
  const memory = Number(field("memory").value) * GIB;
  const most = modelOf(chosenMap())?.cache.max_running ?? Infinity;
  tiles["Bytes a request"].value.textContent = each === undefined ? "–" : bytes((kept + answer) * each);
  for (const [name, tokens] of [["Requests at a time", kept], ["With the full cache", full]]) {
    const fit = each === undefined ? null : Math.floor(memory / ((tokens + answer) * each));
    tiles[name].value.textContent = fit === null ? "–" : count(Math.min(fit, most));
    tiles[name].note.textContent = fit !== null && fit > most ? `memory for ${count(fit)}` : "";
  }
  if (each !== undefined) meters.memory.show((kept + answer) / (full + answer), `${bytes((kept + answer) * each)} of ${bytes((full + answer) * each)}`);
}

function tell(layer, head) {
  if (!last) return;
  const tokens = last.budgets[layer][head];
  byId("here").textContent = `Layer ${layer}, KV head ${head}: ${count(tokens)} of ${count(last.prompt_tokens)} tokens, ${percent(Math.min(1, tokens / last.prompt_tokens))} of the prompt`;
}

form.addEventListener("input", () => {
  showChoice();
  clearTimeout(timer);
  timer = setTimeout(ask, WAIT_MS);
});
field("map").addEventListener("change", () => Promise.all([showPolicies(), showQuality()]));
form.addEventListener("submit", (event) => event.preventDefault());

const chosenMap = () => maps.find((map) => map.id === field("map").value);
const modelOf = (map) => models.find((one) => one.id === map?.model);

/** Those of the map's model. */
async function showPolicies() {
  const model = chosenMap()?.model;
  try {
    if (model && model !== policies.model) await policies.show(model);
    byId("policies-problem").replaceChildren();
  } catch (error) {
    policies.model = "";
    byId("policies-problem").replaceChildren(notice(error, { text: "Try again", run: showPolicies }));
  }
}

/** The newest curve of the map's model. */
async function showQuality() {
  const map = chosenMap();
  try {
    const found = await newestCurve(map);
    if (map !== chosenMap()) return; // another was chosen meanwhile
    drawCurve = found.draw;
    byId("quality-of").textContent = found.about;
    showChoice();
  } catch (error) {
    drawCurve = () => notice(error, { text: "Try again", run: showQuality });
    showChoice();
  }
}

/** Begin with what this server has: the map it serves, its KV memory, and a prompt of a sample page. */
async function beginHere() {
  models = await servedModels().catch(() => []);
  const served = modelOf(maps.find((map) => models.some((one) => one.map?.id === map.id)));
  if (!served) return;
  field("map").value = served.map.id;
  field("memory").value = Number((served.cache.memory_bytes / GIB).toPrecision(3));
  byId("memory-hint").textContent = `This server has ${bytes(served.cache.memory_bytes)} for ${served.id}, and runs at most ${count(served.cache.max_running)} requests at a time.`;
  const prompt = await promptOfSample(served.id).catch(() => null);
  if (prompt) field("prompt").value = prompt;
}

/** Tokens of a question about a sample page. */
async function promptOfSample(model) {
  const { questions } = await own("/samples/0");
  const picture = await (await fetch("/dashboard/samples/0/picture.png")).blob();
  const url = await new Promise((resolve) => Object.assign(new FileReader(), { onload: (event) => resolve(event.target.result) }).readAsDataURL(picture));
  const content = [{ type: "image_url", image_url: { url } }, { type: "text", text: questions[0].question }];
  return (await post("/tokenize", { model, messages: [{ role: "user", content }] })).count;
}

async function start() {
  try {
    maps = (await list("/maps")).sort((one, other) => Boolean(otherKind(one)) - Boolean(otherKind(other))); // visual ones first
    byId("problem").replaceChildren();
    byId("empty").hidden = maps.length > 0;
    byId("budgets").hidden = maps.length === 0;
    setOptions(field("map"), maps.map((map) => [map.id, nameOf(map)]));
    if (!maps.length) return;
    await beginHere();
    await Promise.all([ask(), showPolicies(), showQuality()]);
  } catch (error) {
    byId("problem").replaceChildren(notice(error, { text: "Try again", run: start }));
  }
}

await start();
