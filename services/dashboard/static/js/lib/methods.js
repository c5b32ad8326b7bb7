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

/** A method with its share of the prompt. @param {{method: string, ratio: number}} point */
export const caseName = ({ method, ratio }) => (method === "full" ? nameOf(method) : `${nameOf(method)} at ${Number((ratio * 100).toFixed(3))} %`);
