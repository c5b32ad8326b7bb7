// One map: what it is, its heads, and another map beside it.
import { address, get } from "../lib/api.js";
import { announce, h } from "../lib/dom.js";
import { count, time } from "../lib/format.js";
import { Problem, notice } from "../lib/problems.js";
import { ranked } from "../lib/scores.js";
import { aliasDialog } from "./alias.js";
import { Comparison } from "./compare.js";
import { Heads } from "./heads.js";

export class MapView {
  /** @param {{changed: (id: string) => void, others: () => any[]}} calls */
  constructor({ changed, others }) {
    this.changed = changed;
    this.others = others;
    this.opened = "";
    this.element = h("div", { class: "stack" });
  }

  /** @param {string} id */
  async open(id) {
    this.opened = id;
    this.element.setAttribute("aria-busy", "true");
    try {
      const [map, matrix, errors] = await Promise.all([get(`/maps/${id}`), get(`/maps/${id}/scores`), standardErrors(id)]);
      if (this.opened === id) this.#show(map, matrix, errors);
    } catch (error) {
      if (this.opened === id) this.element.replaceChildren(notice(error, { text: "Try again", run: () => this.open(id) }));
    } finally {
      if (this.opened === id) this.element.removeAttribute("aria-busy");
    }
  }

  #show(map, matrix, errors) {
    const heads = ranked(matrix, errors);
    const alike = this.others().filter((other) => other.id !== map.id && other.num_layers === map.num_layers && other.num_heads === map.num_heads);
    this.element.replaceChildren(this.#about(map), new Heads(map, matrix, heads).element, new Comparison(map, matrix, alike).element);
    announce(`Map version ${map.version} of ${map.model}`);
  }

  #about(map) {
    const facts = [
      ["Kind", map.kind === "visual" ? "visual: heads that look at the picture" : "text-retrieval: heads that look at the asked part of a text"],
      ["Shape", `${map.num_layers} layers × ${map.num_heads} heads, ${map.num_kv_heads} KV heads`],
      ["From", source(map)],
      ["Origin", map.origin_map_id && `version ${map.origin_version ?? "?"} of another registry${map.origin_repo ? `, pulled from ${map.origin_repo}` : ""}`],
      ["Tags", map.tags.join(", ")],
      ["Notes", map.notes],
      ["Hits", map.hits === null ? null : `${count(map.hits)} over all heads; ${count(map.tokens_matched ?? 0)} of ${count(map.tokens_seen ?? 0)} tokens read a word of their page`],
      [map.origin_created_at ? "Imported" : "Made", `${time(map.created_at)}${map.code_version ? `, by version ${map.code_version}` : ""}`],
      ["Revision", map.revision],
      ["Checksum", map.checksum],
      ["Id", map.id],
    ].filter(([, value]) => value);
    const move = h("button", { type: "button", onclick: () => aliasDialog(map, this.others(), () => this.changed(map.id)) }, "Move an alias here");
    return h(
      "section",
      { class: "panel stack", "aria-labelledby": "map-title" },
      h(
        "div",
        { class: "row between" },
        h("div", { class: "row" }, h("h2", { id: "map-title" }, `${map.model}, version ${map.version}`), map.aliases.map((alias) => h("span", { class: "tag accent" }, alias))),
        h("div", { class: "row" }, map.kind === "visual" ? move : null, h("a", { class: "button", href: address(`/maps/${map.id}/export`), download: "" }, "Export")),
      ),
      h("dl", { class: "facts" }, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    );
  }
}

/** What the map was made from, as far as it is known. */
function source(map) {
  if (map.pages === null) return map.dataset === "import" ? "an import of unknown origin" : map.dataset;
  const more = [["seed", map.seed], ["rule", map.rule]].filter(([, value]) => value !== null);
  return [`${count(map.pages)} pages of ${map.dataset}`, ...more.map(([name, value]) => `${name} ${value}`)].join(", ");
}

/** Null where the map does not tell them: an imported one knows nothing of pages. */
async function standardErrors(id) {
  try {
    return await get(`/maps/${id}/scores`, { format: "standard_errors" });
  } catch (error) {
    if (error instanceof Problem && error.status === 422) return null;
    throw error;
  }
}
