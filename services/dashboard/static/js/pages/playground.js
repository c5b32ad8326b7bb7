// The playground: one question, two ways to keep the cache, side by side.
import { get } from "../lib/api.js";
import { announce, byId, setOptions } from "../lib/dom.js";
import { notice } from "../lib/problems.js";
import { Column } from "../playground/column.js";
import { KeptDifference } from "../playground/difference.js";
import { HeadChoice } from "../playground/head.js";
import { Picture } from "../playground/picture.js";

const BUNDLED = "headmap/demo-ocr";

const form = byId("ask");
const model = byId("model");
const question = byId("question");
const submit = byId("submit");
const stop = byId("stop");

/** @type {Record<string, any>} */
let served = {};
/** @type {any[]} models and policies, as /v1/models has them */
let listed = [];
/** @type {any} the server's methods and selectors */
let info = { kv_methods: [], kv_selectors: [] };

const picture = new Picture({
  onChange: () => {
    for (const column of columns) column.forget();
    question.dispatchEvent(new Event("input"));
  },
  onQuestion: (text) => (question.value = text),
});
const head = new HeadChoice(() => columns.forEach((column) => column.look()));
const difference = new KeptDifference("by the left", "by the right");
const calls = { ask, seen, onBusy, onKept: showDifference };
/** @type {Column[]} */
const columns = [];
columns.push(new Column("Left", { method: "full", share: 1 }, calls), new Column("Right", { method: "sparsemm", share: 0.2 }, calls));
byId("columns").append(...columns.map((column) => column.element));
byId("difference").append(difference.element);

/** What a column needs to ask; null where the form is not filled in. */
function ask() {
  if (!picture.check() || !form.reportValidity()) return null;
  return {
    picture: picture.current,
    question: question.value,
    expected: picture.answerTo(question.value),
    body: {
      model: model.value,
      inputs: question.value,
      images: picture.current ? [picture.current.url] : [],
      parameters: { max_new_tokens: Number(byId("new-tokens").value), kept: head.chosen },
    },
  };
}

/** The picture to draw on what a head keeps of it; null where that is off. */
function seen() {
  return head.chosen && picture.current;
}

/** The columns' kept tokens on one picture, once both have answered the same. */
function showDifference() {
  const [left, right] = columns.map((column) => column.drawn);
  byId("difference").hidden = !seen();
  if (left && right && left.prompt === right.prompt) difference.show(left.details, right.details);
  else if (seen()) difference.prepare(seen());
}

function onBusy() {
  const busy = columns.some((column) => column.busy);
  stop.disabled = !busy;
  submit.textContent = busy ? "Ask again" : "Ask both";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  announce("Asking both");
  await Promise.all(columns.map((column) => column.run()));
  announce(columns.map((column) => column.spoken).join(". "));
});
stop.addEventListener("click", () => columns.forEach((column) => column.stop()));
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
model.addEventListener("change", () => {
  tellMap();
  offer();
  follow();
});

function tellMap() {
  const map = served[model.value]?.map;
  const hint = byId("model-hint");
  const limits = model.value === BUNDLED ? " This small model reads pages like the samples, and no others." : "";
  if (map) hint.replaceChildren(link(`/dashboard/maps?map=${map.id}`, `Head map, version ${map.version}`), ".", limits);
  else hint.replaceChildren("No head map yet: budgets are the same for every head. ", link("/dashboard/jobs", "Profile it"), ".", limits);
}

/** Methods, selectors and the model's policies to the columns. */
function offer() {
  const policies = listed.filter((one) => one.parent === model.value);
  for (const column of columns) column.offer(info, policies);
}

async function follow() {
  try {
    await head.follow(served[model.value]);
  } catch (error) {
    byId("page-problem").replaceChildren(notice(error, { text: "Try again", run: follow }));
  }
}

function link(href, text) {
  const element = document.createElement("a");
  element.href = href;
  element.textContent = text;
  return element;
}

async function start() {
  try {
    listed = (await get("/v1/models")).data;
    const models = listed.filter((one) => one.parent === null);
    served = Object.fromEntries(models.map((one) => [one.id, one]));
    setOptions(model, models.map((one) => [one.id, one.id]));
    model.disabled = false;
    tellMap();
    info = await get("/info");
    offer();
    byId("page-problem").replaceChildren();
    await follow();
  } catch (error) {
    setOptions(model, [["", "No model to be had"]]);
    byId("page-problem").replaceChildren(notice(error, { text: "Try again", run: start }));
  }
}

await start();
