// The cache methods by their names in papers.

const NAMES = {
  full: "Full cache",
  sparsemm: "SparseMM",
  snapkv: "SnapKV",
  pyramidkv: "PyramidKV",
  adakv: "AdaKV",
  random: "Random map",
};

/** @param {string} method */
export const nameOf = (method) => NAMES[method] ?? method;

const SELECTORS = {
  snapkv: "SnapKV: those that the last tokens look at",
  "last-query": "Last query: those that the last token looks at",
  mixkv: "MixKV: those looked at, and those that differ",
};

/** @param {string} selector */
export const selectorName = (selector) => SELECTORS[selector] ?? selector;

/** One word for a selector of an evaluation: its name, or its numbers. @param {string | Record<string, any>} select */
export function selectorLabel(select) {
  if (typeof select === "string") return select;
  const telling = Object.entries(select).filter(([, value]) => value && value !== "window");
  return telling.map(([name, value]) => `${name}=${value}`).join(",");
}

/**
 * A method with its share of the prompt, and with its selector where several are compared.
 * @param {{method: string, ratio: number, select?: any}} point @param {boolean} [bySelector]
 */
export function caseName({ method, ratio, select }, bySelector = false) {
  if (method === "full") return nameOf(method);
  return `${nameOf(method)} at ${Number((ratio * 100).toFixed(3))} %${bySelector ? `, ${selectorLabel(select)}` : ""}`;
}

/** @param {any} one @param {any} other points or cases of one evaluation */
export const isSameCase = (one, other) => one.method === other.method && one.ratio === other.ratio && JSON.stringify(one.select) === JSON.stringify(other.select);
