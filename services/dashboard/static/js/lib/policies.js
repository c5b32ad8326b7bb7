// The policies of a model: what each keeps, and how one is written and deleted.
import { list, put, remove } from "./api.js";
import { formDialog } from "./dialog.js";
import { announce, h } from "./dom.js";
import { percent, time } from "./format.js";

const COLUMNS = ["Name", "Version", "Keeps", "Written", "By", ""];

/** A field for a policy's name, and its input. @param {string} model */
export function nameField(model) {
  const name = h("input", { id: "policy-name", required: true, maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", value: "documents", autocomplete: "off", spellcheck: "false", "aria-describedby": "policy-hint" });
  const hint = h("p", { class: "hint", id: "policy-hint" }, `Any client then asks for ${model}@NAME. A policy that has this name gets another version.`);
  return { name, field: h("div", { class: "field" }, h("label", { for: "policy-name" }, "Name of the policy"), name, hint) };
}

export class Policies {
  constructor() {
    this.model = "";
    this.rows = h("tbody", {});
    this.none = h("p", { class: "hint" });
    this.table = h("div", { class: "table-wrap", tabindex: 0, role: "region", "aria-label": "Policies" }, h("table", {}, h("thead", {}, h("tr", {}, COLUMNS.map((text) => h("th", { scope: "col" }, text)))), this.rows));
    this.element = h("div", { class: "stack" }, this.none, this.table);
  }

  /** @param {string} model */
  async show(model) {
    this.model = model;
    const found = await list("/policies", { model });
    if (this.model !== model) return; // another was chosen meanwhile
    this.none.textContent = found.length ? "" : `No policies of ${model} yet. A policy is a budget with a name, which is served as MODEL@NAME.`;
    this.none.hidden = found.length > 0;
    this.table.hidden = found.length === 0;
    this.rows.replaceChildren(...found.map((one) => this.#row(one)));
  }

  /** Ask for a name, and write a policy of the model that is shown. @param {any} kv */
  write(kv) {
    const { name, field } = nameField(this.model);
    formDialog({
      title: `Serve ${keeps(kv)}`,
      fields: [field],
      action: "Serve it",
      work: async () => {
        await put(pathOf(this.model, name.value.trim()), { body: { kv } });
        announce(`Served as ${this.model}@${name.value.trim()}`);
        await this.show(this.model);
      },
    });
  }

  #row(policy) {
    const cells = [`${policy.name}`, `${policy.version}`, keeps(policy.kv), time(policy.created_at), policy.created_by ?? "somebody without a key"];
    const button = h("button", { type: "button", class: "danger", "aria-label": `Delete ${policy.name}`, onclick: () => this.#delete(policy) }, "Delete");
    return h("tr", { "data-policy": policy.name }, ...cells.map((cell) => h("td", {}, cell)), h("td", {}, button));
  }

  #delete(policy) {
    formDialog({
      title: `Delete the policy ${policy.name}`,
      fields: [h("p", {}, `Requests for ${policy.model}@${policy.name} are refused from then on. Its versions stay in the history.`)],
      action: "Delete",
      work: async () => {
        // Only what the question was about: a version written since then is not lost.
        await remove(pathOf(policy.model, policy.name), { "If-Match": `"${policy.version}"` });
        announce(`${policy.name} is deleted`);
        await this.show(this.model);
      },
    });
  }
}

/** What a policy keeps, in words. @param {any} kv */
export function keeps(kv) {
  if (kv.method === "full") return "all of it";
  const size = kv.ratio === undefined ? `${kv.budget} tokens a head` : percent(kv.ratio);
  const selector = kv.select === undefined ? "" : `, ${typeof kv.select === "string" ? kv.select : "a selector of its own"}`;
  return `${kv.method}, ${size}${selector}${kv.map === undefined ? "" : `, map ${kv.map.slice(0, 8)}`}`;
}

const pathOf = (model, name) => `/policies/${model.split("/").map(encodeURIComponent).join("/")}/${name}`;
