// Point an alias at a map.
import { get, put } from "../lib/api.js";
import { announce, h } from "../lib/dom.js";
import { time } from "../lib/format.js";
import { formDialog } from "../lib/dialog.js";

/** @param {any} map @param {any[]} maps all that are known @param {() => void} done */
export function aliasDialog(map, maps, done) {
  const elsewhere = new Map(maps.filter((one) => one.model === map.model && one.id !== map.id).flatMap((one) => one.aliases.map((alias) => [alias, one])));
  const known = [...new Set(["default", "stable", ...elsewhere.keys()])].filter((alias) => !map.aliases.includes(alias));
  const field = h("input", { id: "alias", list: "known-aliases", required: true, maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", title: "letters, digits, dots, dashes and underscores", value: known[0] ?? "", autocomplete: "off", "aria-describedby": "alias-hint", oninput: tell });
  const hint = h("p", { id: "alias-hint", class: "hint", "aria-live": "polite" });

  async function tell() {
    const [name, from] = [field.value, elsewhere.get(field.value)];
    const last = from && (await get(`/maps/${map.id}/aliases/history`, { alias: name, limit: 1 }).catch(() => null))?.items[0];
    if (field.value !== name) return; // another name was typed meanwhile
    const moved = last ? `, moved ${time(last.moved_at)} by ${last.moved_by ?? "somebody without a key"}` : "";
    const where = from === undefined ? "" : `It points at version ${from.version} now${moved}. `;
    hint.textContent = `${where}${field.value === "default" ? "Requests that name no map follow “default”, without a restart." : "Requests can name it as their map."}`;
  }

  tell();
  formDialog({
    title: `Move an alias to version ${map.version}`,
    fields: [h("div", { class: "field" }, h("label", { for: "alias" }, "Alias"), field, h("datalist", { id: "known-aliases" }, known.map((value) => h("option", { value }))), hint)],
    action: "Move",
    work: async () => {
      const seen = elsewhere.get(field.value); // what the question was answered with: a move since then is not lost
      await put(`/maps/${map.id}/aliases/${encodeURIComponent(field.value)}`, seen ? { headers: { "If-Match": `"${seen.id}"` } } : {});
      announce(`${field.value} points at version ${map.version}`);
      done();
    },
  });
}
