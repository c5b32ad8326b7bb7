// What can be said of a matrix of head scores: layers down, heads across, the whole summing to 1.

/** @typedef {{layer: number, head: number, score: number, error: number | null, rank: number, share: number}} Head */

const Z95 = 1.96;

/**
 * Heads in order, the highest score first; `share` is the running share of the total.
 * @param {number[][]} matrix @param {number[][] | null} errors standard errors, where the map has them @returns {Head[]}
 */
export function ranked(matrix, errors) {
  const heads = matrix.flatMap((row, layer) => row.map((score, head) => ({ layer, head, score, error: errors ? errors[layer][head] : null, rank: 0, share: 0 })));
  heads.sort((a, b) => b.score - a.score || a.layer - b.layer || a.head - b.head);
  let share = 0;
  heads.forEach((head, index) => {
    share += head.score;
    head.rank = index + 1;
    head.share = share;
  });
  return heads;
}

/** The 95 % confidence interval of a score over pages; null where the map does not tell. @param {Head} head */
export function interval({ score, error }) {
  return error === null ? null : [Math.max(0, score - Z95 * error), Math.min(1, score + Z95 * error)];
}

/** What the top `part` of the heads hold: how many they are, and their share. @param {Head[]} heads @param {number} part */
export function top(heads, part) {
  const count = Math.max(1, Math.round(part * heads.length));
  return { count, share: heads[count - 1].share };
}

/** @param {{layer: number, head: number}} head */
export const keyOf = ({ layer, head }) => `${layer}-${head}`;
