// Import a published SparseMM file, or one that was exported here.
import { post, servedModels } from "../lib/api.js";
import { announce, h } from "../lib/dom.js";
import { formDialog } from "../lib/dialog.js";
import { Problem } from "../lib/problems.js";

/** @param {(id: string) => void} done */
export function importDialog(done) {
  const file = h("input", { id: "scores-file", type: "file", accept: ".json,application/json", required: true, "aria-describedby": "scores-hint" });
  const model = h("input", { id: "import-model", list: "import-models", required: true, maxlength: 512, autocomplete: "off", spellcheck: "false" });
  const models = h("datalist", { id: "import-models" });
  const heads = h("input", { id: "import-heads", type: "number", min: 1, max: 99999, required: true });
  servedModels().then(
    (data) => {
      models.append(...data.map((one) => h("option", { value: one.id })));
      model.value ||= data[0]?.id ?? "";
    },
    () => {}, // a name can be typed
  );
  formDialog({
    title: "Import a map",
    fields: [
      h("div", { class: "field" }, h("label", { for: "scores-file" }, "SparseMM file"), file, h("p", { id: "scores-hint", class: "hint" }, "JSON: for each “layer-head” a score, or a list of one for each page")),
      h("div", { class: "field" }, h("label", { for: "import-model" }, "Model"), model, models),
      h("div", { class: "field" }, h("label", { for: "import-heads" }, "KV heads in a layer"), heads),
    ],
    action: "Import",
    work: async () => {
      const map = await post("/maps", { model: model.value.trim(), num_kv_heads: Number(heads.value), scores: await read(file.files[0]) });
      announce(`Imported as version ${map.version}`);
      done(map.id);
    },
  });
}

/** @param {File} file */
async function read(file) {
  try {
    return JSON.parse(await file.text());
  } catch {
    throw new Problem({ code: "invalid_scores", status: 422, detail: `${file.name} is not JSON` });
  }
}
