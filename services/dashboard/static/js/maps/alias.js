// Point an alias at a map.
import { put } from "../lib/api.js";
import { announce, h } from "../lib/dom.js";
import { formDialog } from "../lib/dialog.js";

/** @param {any} map @param {any[]} maps all that are known @param {() => void} done */
export function aliasDialog(map, maps, done) {
  const elsewhere = new Map(maps.filter((one) => one.model === map.model && one.id !== map.id).flatMap((one) => one.aliases.map((alias) => [alias, one.version])));
  const known = [...new Set(["default", "stable", ...elsewhere.keys()])].filter((alias) => !map.aliases.includes(alias));
  const field = h("input", { id: "alias", list: "known-aliases", required: true, maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", title: "letters, digits, dots, dashes and underscores", value: known[0] ?? "", autocomplete: "off", "aria-describedby": "alias-hint", oninput: tell });
  const hint = h("p", { id: "alias-hint", class: "hint", "aria-live": "polite" });

  function tell() {
    const from = elsewhere.get(field.value);
    const where = from === undefined ? "" : `It points at version ${from} now. `;
    hint.textContent = `${where}${field.value === "default" ? "Requests that name no map follow “default”, without a restart." : "Requests can name it as their map."}`;
  }

  tell();
  formDialog({
    title: `Move an alias to version ${map.version}`,
    fields: [h("div", { class: "field" }, h("label", { for: "alias" }, "Alias"), field, h("datalist", { id: "known-aliases" }, known.map((value) => h("option", { value }))), hint)],
    action: "Move",
    work: async () => {
      await put(`/maps/${map.id}/aliases/${encodeURIComponent(field.value)}`);
      announce(`${field.value} points at version ${map.version}`);
      done();
    },
  });
}
