// Maps: the versions of each model, and one of them in full.
import { list } from "../lib/api.js";
import { byId, h } from "../lib/dom.js";
import { time } from "../lib/format.js";
import { notice } from "../lib/problems.js";
import { importDialog } from "../maps/import.js";
import { otherKind } from "../maps/name.js";
import { MapView } from "../maps/view.js";

/** @type {any[]} */
let maps = [];
/** @type {any[] | null} those that the search found; null without a search */
let found = null;
const view = new MapView({ changed: refresh, others: () => maps });
byId("map").append(view.element);

/** @param {string} [id] the map to show; without it the one of the address, or the newest */
async function refresh(id) {
  try {
    maps = await list("/maps");
    found = null;
    byId("search").value = "";
    byId("problem").replaceChildren();
  } catch (error) {
    byId("problem").replaceChildren(notice(error, { text: "Try again", run: () => refresh(id) }));
    return;
  }
  byId("empty").hidden = maps.length > 0;
  byId("maps").hidden = maps.length === 0;
  if (!maps.length) return;
  const wanted = id ?? new URLSearchParams(location.search).get("map") ?? maps[0].id;
  showVersions(wanted);
  await view.open(wanted);
}

function showVersions(current) {
  const listed = found ?? maps;
  const models = [...new Set(listed.map((map) => map.model))];
  byId("none").hidden = listed.length > 0;
  byId("versions").replaceChildren(
    ...models.map((model) =>
      h("div", { class: "stack tight" }, h("h2", { class: "label" }, model), h("ul", { class: "versions" }, listed.filter((map) => map.model === model).map((map) => version(map, current)))),
    ),
  );
}

function version(map, current) {
  function open(event) {
    event.preventDefault();
    history.pushState(null, "", `?map=${map.id}`);
    showVersions(map.id);
    view.open(map.id);
  }
  return h(
    "li",
    {},
    h(
      "a",
      { href: `?map=${map.id}`, class: "version", "aria-current": map.id === current ? "true" : null, onclick: open },
      h("span", { class: "row between" }, h("span", { class: "strong" }, `Version ${map.version}`), h("span", { class: "chips" }, otherKind(map) && h("span", { class: "tag" }, otherKind(map)), map.aliases.map((alias) => h("span", { class: "tag accent" }, alias)), map.tags.map((tag) => h("span", { class: "tag" }, tag)))),
      h("span", { class: "hint" }, `${map.pages ? `${map.pages} pages` : map.dataset}, ${time(map.created_at)}`),
    ),
  );
}

async function search() {
  const text = byId("search").value;
  try {
    const answer = text.trim() ? await list("/maps", { text: text.trim() }) : null;
    if (byId("search").value !== text) return; // more was typed meanwhile
    found = answer;
    byId("problem").replaceChildren();
    showVersions(view.opened);
  } catch (error) {
    byId("problem").replaceChildren(notice(error, { text: "Try again", run: search }));
  }
}

let typed = 0;
byId("search").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(search, 200);
});
byId("import").addEventListener("click", () => importDialog((id) => refresh(id)));
window.addEventListener("popstate", () => refresh());
await refresh();
