// Making and finding elements. Text always goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} id @returns {any} the element; a missing one is a mistake of ours */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element #${id}`);
  return found;
}

/**
 * An HTML element. Functions become listeners, `true` an empty attribute; null and false are left out.
 * @param {string} tag @param {Record<string, any>} [attributes] @param {...any} children @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. @param {string} tag @param {Record<string, any>} [attributes] @param {...any} children @returns {any} */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Options of a select, keeping its choice where it is still there. @param {any} select @param {[string, string][]} options */
export function setOptions(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
  if (options.some(([value]) => value === before)) select.value = before;
}

let unique = 0;

/** An id that no other element has. @param {string} prefix */
export function newId(prefix) {
  unique += 1;
  return `${prefix}-${unique}`;
}

/** Tell users of screen readers. @param {string} text */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Run `look` now and every `seconds` while the page is seen; returns a function that looks at once. */
export function repeat(look, seconds) {
  let timer = 0;
  let busy = false;
  async function turn() {
    clearTimeout(timer);
    if (busy) return;
    busy = true;
    try {
      if (!document.hidden) await look();
    } finally {
      busy = false;
      timer = setTimeout(turn, seconds() * 1000);
    }
  }
  document.addEventListener("visibilitychange", () => !document.hidden && turn());
  turn();
  return turn;
}
