// Budgets: the tokens of each KV head for a prompt and a budget, and what fits a memory.
import { HeadOnPage } from "../budgets/page.js";
import { get, list, post, servedModels } from "../lib/api.js";
import { byId, h, setOptions } from "../lib/dom.js";
import { bytes, count, percent } from "../lib/format.js";
import { Grid, legend } from "../lib/grid.js";
import { Meter } from "../lib/meter.js";
import { selectorName } from "../lib/methods.js";
import { sample } from "../lib/pictures.js";
import { Policies } from "../lib/policies.js";
import { notice } from "../lib/problems.js";
import { newestCurve } from "../evaluations/newest.js";
import { nameOf, otherKind } from "../maps/name.js";

const GIB = 2 ** 30;
const WAIT_MS = 120;
/** Fields that say what is kept. */
const OF_KV = ["share", "selector", "keep-recent", "allocation", "window", "uniform"];

const form = byId("form");
const field = (name) => byId(name);
const grid = new Grid({ label: "Tokens of each KV head: layers down, KV heads across", across: "KV heads across, layers down", onLook: tell, onChoose: (layer, head) => onPage.choose(layer, head) });
const scale = h("div");
byId("heads").append(grid.element, scale);
const tiles = Object.fromEntries(["Prompt kept", "Bytes a request", "Requests at a time", "With the full cache"].map((name) => [name, tile(name)]));
byId("tiles").append(...Object.values(tiles).map((one) => one.element));
const meters = { tokens: new Meter("Tokens, over all layers and KV heads"), memory: new Meter("KV memory") };
const unknown = h("p", { class: "hint", hidden: true }, "The bytes of a token are not known: this map's model is not on the server.");
byId("cost").append(meters.tokens.element, meters.memory.element, unknown);

const policies = new Policies();
byId("policies").append(policies.element);

const onPage = new HeadOnPage({ kvOf, selector: () => field("selector").value, onChoose: (layer, head) => grid.mark(layer, head) });
byId("page").append(onPage.element);
byId("write-policy").addEventListener("click", () => form.reportValidity() && policies.write(kvOf(field("selector").value)));

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

const lastTokens = (number) => (number === 1 ? "last token" : `last ${count(number)} tokens`);

/** The share of the prompt as tokens, rounded down as the service does. */
const budgetOf = (prompt, share) => Math.max(1, Math.floor((prompt * share) / 100 + 1e-9));

/** The `kv` of a request or a policy: what the form says, with a selector. @param {string} select */
function kvOf(select) {
  const recent = { window: field("window").value, keep_recent: field("keep-recent").value };
  const given = Object.entries(recent).filter(([, tokens]) => tokens).map(([name, tokens]) => [name, Number(tokens)]);
  const asked = { method: "sparsemm", ratio: Number(field("share").value) / 100, allocation: field("allocation").value, uniform: Number(field("uniform").value) / 100, map: field("map").value };
  return { ...asked, ...Object.fromEntries(given), ...(select && { select }) };
}

function showChoice() {
  const share = Number(field("share").value);
  const budget = budgetOf(Number(field("prompt").value), share);
  field("share-shown").textContent = `${share} %, ${count(budget)} tokens a head`;
  field("share").setAttribute("aria-valuetext", field("share-shown").textContent);
  field("uniform-shown").textContent = `${field("uniform").value} %`;
  byId("quality").replaceChildren(drawCurve(share / 100, field("selector").value));
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
      keep_recent: field("keep-recent").value,
      select: field("selector").value,
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
  onPage.begin(budgets);
  const texts = budgets[0].length <= 16;
  grid.show(
    budgets.map((row, layer) =>
      row.map((tokens, head) => ({ heat: tokens / peak, text: texts ? count(tokens) : "", label: `Layer ${layer}, KV head ${head}: ${count(tokens)} of ${count(prompt)} tokens` })),
    ),
  );
  if (onPage.looks) grid.mark(...onPage.head);
  scale.replaceChildren(legend("0 tokens", `${count(peak)} tokens`));
  byId("recent-hint").textContent = `Every head keeps the ${lastTokens(found.keep_recent)} of the prompt. The ${lastTokens(found.window)} ${found.window === 1 ? "says" : "say"} which others it keeps.`;
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
field("map").addEventListener("change", () => Promise.all([showPage(), showPolicies(), showQuality()]));
for (const name of OF_KV) field(name).addEventListener("change", () => onPage.look());
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

/** A sample page to look at heads on, where the map's model is served. */
async function showPage() {
  const map = chosenMap();
  const model = modelOf(map)?.id;
  byId("page").hidden = model === undefined;
  onPage.follow(null); // a head of the map before this one may not be there
  if (model === undefined) return;
  try {
    const page = await samplePage();
    if (map === chosenMap()) onPage.follow({ model, ...page });
  } catch (error) {
    onPage.problem.replaceChildren(notice(error, { text: "Try again", run: showPage }));
  }
}

/** Begin with what this server has: the map it serves, its selectors, its KV memory, and a prompt of a sample page. */
async function beginHere() {
  models = await servedModels().catch(() => []);
  const served = modelOf(maps.find((map) => models.some((one) => one.map?.id === map.id)));
  if (!served) return;
  field("map").value = served.map.id;
  field("memory").value = Number((served.cache.memory_bytes / GIB).toPrecision(3));
  byId("memory-hint").textContent = `This server has ${bytes(served.cache.memory_bytes)} for ${served.id}, and runs at most ${count(served.cache.max_running)} requests at a time.`;
  const prompt = await promptTokens(served.id).catch(() => null);
  if (prompt) field("prompt").value = prompt;
}

/** The selectors of the server, beginning with its own choice. */
async function offerSelectors() {
  if (!models.length) return;
  const { kv_selectors: selectors, kv_default_selector: usual } = await get("/info");
  setOptions(field("selector"), selectors.map((one) => [one, selectorName(one)]));
  field("selector").value = usual;
  byId("selector-field").hidden = false;
  onPage.offer(selectors);
}

/** A sample page and a question about it. */
async function samplePage() {
  const { picture, questions } = await sample(0);
  return { picture, question: questions[0].question };
}

/** Tokens of a question about a sample page. */
async function promptTokens(model) {
  const { picture, question } = await samplePage();
  const content = [{ type: "image_url", image_url: { url: picture.url } }, { type: "text", text: question }];
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
    await offerSelectors();
    await Promise.all([ask(), showPage(), showPolicies(), showQuality()]);
  } catch (error) {
    byId("problem").replaceChildren(notice(error, { text: "Try again", run: start }));
  }
}

await start();
