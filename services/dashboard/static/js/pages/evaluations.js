// Evaluations: start one, watch it, read its curve, serve what it recommends.
import { get } from "../lib/api.js";
import { byId, h } from "../lib/dom.js";
import { nameOf, selectorName } from "../lib/methods.js";
import { notice } from "../lib/problems.js";
import { evaluation } from "../evaluations/kind.js";
import { EvaluationView, readEvaluation } from "../evaluations/view.js";
import { offerModelsAndDatasets } from "../jobs/choices.js";
import { JobList, submitJob } from "../jobs/list.js";

const CHOSEN = ["sparsemm", "snapkv"];
let shown = "";

const jobs = new JobList(evaluation, "evaluation", (all) => {
  // Without a choice of the reader's, the newest curve.
  const newest = all.find((job) => job.state === "succeeded");
  if (!shown && !asked() && newest) show(newest.id);
});

const asked = () => new URLSearchParams(location.search).get("evaluation");

async function show(id) {
  shown = id;
  try {
    const found = await readEvaluation(id);
    if (shown !== id || !found.result) return;
    byId("shown").replaceChildren(new EvaluationView(found).element);
  } catch (error) {
    byId("shown").replaceChildren(notice(error, { text: "Try again", run: () => show(id) }));
  }
}

function offerMethods(methods) {
  byId("methods").replaceChildren(
    ...methods
      .filter((one) => one !== "full")
      .map((one) => h("label", { class: "switch" }, h("input", { type: "checkbox", name: "method", value: one, checked: CHOSEN.includes(one) }), nameOf(one))),
  );
}

/** @param {string[]} selectors */
function offerSelectors(selectors) {
  byId("selectors-field").hidden = !selectors.length;
  byId("selectors").replaceChildren(
    ...selectors.map((one) => h("label", { class: "switch" }, h("input", { type: "checkbox", name: "selector", value: one, "aria-label": one }), h("span", {}, one, selectorName(one) === one ? "" : h("span", { class: "hint" }, ` ${selectorName(one)}`)))),
  );
}

const form = byId("start");
const checked = (name) => [...form.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value);
const given = (id) => (byId(id).value === "" ? null : Number(byId(id).value));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const selectors = checked("selector");
  const body = {
    model: byId("model").value.trim(),
    map: byId("map").value.trim() || null,
    dataset: byId("dataset").value.trim(),
    questions: given("questions"),
    methods: ["full", ...checked("method")],
    selectors: selectors.length ? selectors : null,
    ratios: byId("ratios").value.split(",").filter((text) => text.trim()).map((text) => Number((Number(text) / 100).toFixed(6))),
    metric: byId("metric").value || null,
    max_new_tokens: given("new-tokens"),
    margin: Number(byId("margin").value),
    seed: Number(byId("seed").value),
    force: byId("force").checked,
  };
  submitJob(() => jobs.start(body), "evaluation");
});

offerMethods(["sparsemm", "snapkv"]);
if (asked()) show(String(asked()));
await offerModelsAndDatasets();
const info = await get("/info").catch(() => ({ kv_methods: ["sparsemm", "snapkv", "pyramidkv", "adakv", "random"], kv_selectors: [] }));
offerMethods(info.kv_methods);
offerSelectors(info.kv_selectors);
