// Budgets: the tokens of each KV head for a prompt and a budget, and what fits a memory.
import { get, list } from "../lib/api.js";
import { byId, h, setOptions } from "../lib/dom.js";
import { bytes, count, percent } from "../lib/format.js";
import { Grid, legend } from "../lib/grid.js";
import { Meter } from "../lib/meter.js";
import { Policies } from "../lib/policies.js";
import { notice } from "../lib/problems.js";

const GIB = 2 ** 30;
const WAIT_MS = 120;

const form = byId("form");
const field = (name) => byId(name);
const grid = new Grid({ label: "Tokens of each KV head: layers down, KV heads across", across: "KV heads across, layers down", onLook: tell });
const scale = h("div");
byId("heads").append(grid.element, scale);
const tiles = Object.fromEntries(["Kept", "Bytes a request", "Requests that fit", "Fit with the full cache"].map((name) => [name, tile(name)]));
byId("tiles").append(...Object.values(tiles).map((one) => one.element));
const meters = { tokens: new Meter("Tokens, over all layers and KV heads"), memory: new Meter("KV memory") };
const unknown = h("p", { class: "hint", hidden: true }, "The bytes of a token are not known: this map's model is not on the server.");
byId("cost").append(meters.tokens.element, meters.memory.element, unknown);

const policies = new Policies();
byId("policies").append(policies.element);

/** @type {any[]} */
let maps = [];
/** @type {any} */
let last = null;
let asked = 0;
let timer = 0;

function tile(name) {
  const value = h("dd", { class: "tile-value" }, "–");
  return { value, element: h("dl", { class: "panel tile" }, h("dt", {}, name), value) };
}

/** The share of the prompt as tokens, rounded down as the service does. */
const budgetOf = (prompt, share) => Math.max(1, Math.floor((prompt * share) / 100 + 1e-9));

function showChoice() {
  const share = Number(field("share").value);
  const budget = budgetOf(Number(field("prompt").value), share);
  field("share-shown").textContent = `${share} %, ${count(budget)} tokens a head`;
  field("share").setAttribute("aria-valuetext", field("share-shown").textContent);
  field("uniform-shown").textContent = `${field("uniform").value} %`;
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
  tiles.Kept.value.textContent = percent(kept / full);
  meters.tokens.show(kept / full, `${count(kept)} of ${count(full)}`);
  showBytes(found.bytes_per_token_per_head, kept, full);
}

function showBytes(each, kept, full) {
  unknown.hidden = each !== undefined;
  meters.memory.element.hidden = each === undefined;
  const memory = Number(field("memory").value) * GIB;
  const fit = (tokens) => (each === undefined ? "–" : count(Math.floor(memory / (tokens * each))));
  tiles["Bytes a request"].value.textContent = each === undefined ? "–" : bytes(kept * each);
  tiles["Requests that fit"].value.textContent = fit(kept);
  tiles["Fit with the full cache"].value.textContent = fit(full);
  if (each !== undefined) meters.memory.show(kept / full, `${bytes(kept * each)} of ${bytes(full * each)}`);
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
field("map").addEventListener("change", showPolicies);
form.addEventListener("submit", (event) => event.preventDefault());

/** Those of the map's model. */
async function showPolicies() {
  const model = maps.find((map) => map.id === field("map").value)?.model;
  try {
    if (model && model !== policies.model) await policies.show(model);
    byId("policies-problem").replaceChildren();
  } catch (error) {
    policies.model = "";
    byId("policies-problem").replaceChildren(notice(error, { text: "Try again", run: showPolicies }));
  }
}

async function start() {
  try {
    maps = await list("/maps");
    byId("problem").replaceChildren();
    byId("empty").hidden = maps.length > 0;
    byId("budgets").hidden = maps.length === 0;
    setOptions(field("map"), maps.map((map) => [map.id, `${map.model}, version ${map.version}${map.aliases.length ? ` (${map.aliases.join(", ")})` : ""}`]));
    if (maps.length) await Promise.all([ask(), showPolicies()]);
  } catch (error) {
    byId("problem").replaceChildren(notice(error, { text: "Try again", run: start }));
  }
}

await start();
