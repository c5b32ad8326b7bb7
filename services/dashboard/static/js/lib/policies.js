// The policies of a model: what each keeps, and a way to delete it.
import { list, remove } from "./api.js";
import { formDialog } from "./dialog.js";
import { announce, h } from "./dom.js";
import { percent, time } from "./format.js";

const COLUMNS = ["Name", "Version", "Keeps", "Written", "By", ""];

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
        await remove(`/policies/${policy.model.split("/").map(encodeURIComponent).join("/")}/${policy.name}`, { "If-Match": `"${policy.version}"` });
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
  return `${kv.method}, ${size}${kv.map === undefined ? "" : `, map ${kv.map.slice(0, 8)}`}`;
}
