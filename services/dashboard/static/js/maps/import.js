// Import a map file, as an export here or `headmap maps export` gives it, or a published SparseMM file.
import { post, servedModels } from "../lib/api.js";
import { announce, h } from "../lib/dom.js";
import { formDialog } from "../lib/dialog.js";
import { Problem } from "../lib/problems.js";

/** @param {(id: string) => void} done */
export function importDialog(done) {
  const file = h("input", { id: "scores-file", type: "file", accept: ".json,application/json", required: true, "aria-describedby": "scores-hint", onchange: ask });
  const model = h("input", { id: "import-model", list: "import-models", maxlength: 512, autocomplete: "off", spellcheck: "false" });
  const models = h("datalist", { id: "import-models" });
  const heads = h("input", { id: "import-heads", type: "number", min: 1, max: 99999 });
  const missing = h(
    "div",
    { class: "stack", hidden: true },
    h("p", { class: "hint" }, "This is a file of scores alone. Say which model they are of."),
    h("div", { class: "field" }, h("label", { for: "import-model" }, "Model"), model, models),
    h("div", { class: "field" }, h("label", { for: "import-heads" }, "KV heads in a layer"), heads),
  );
  servedModels().then(
    (data) => {
      models.append(...data.map((one) => h("option", { value: one.id })));
      model.value ||= data[0]?.id ?? "";
    },
    () => {}, // a name can be typed
  );

  /** Ask for what the file does not say: a published one has scores alone. */
  async function ask() {
    const body = file.files[0] ? await read(file.files[0]).catch(() => null) : null;
    missing.hidden = body === null || isMapFile(body);
    model.required = heads.required = !missing.hidden;
  }

  formDialog({
    title: "Import a map",
    fields: [
      h("div", { class: "field" }, h("label", { for: "scores-file" }, "Map file"), file, h("p", { id: "scores-hint", class: "hint" }, "JSON: an exported map, or a published SparseMM file with a score, or a list of one for each page, for each “layer-head”")),
      missing,
    ],
    action: "Import",
    work: async () => {
      const body = await read(file.files[0]);
      const map = await post("/maps", isMapFile(body) ? body : { model: model.value.trim(), num_kv_heads: Number(heads.value), scores: body });
      announce(`Imported as version ${map.version}`);
      done(map.id);
    },
  });
}

/** @param {any} body */
const isMapFile = (body) => body !== null && typeof body === "object" && "scores" in body;

/** @param {File} file */
async function read(file) {
  try {
    return JSON.parse(await file.text());
  } catch {
    throw new Problem({ code: "invalid_scores", status: 422, detail: `${file.name} is not JSON` });
  }
}
