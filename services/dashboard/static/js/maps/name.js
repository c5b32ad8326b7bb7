// How a map is named in a list to choose from.

/** What a map's heads look at, where it is not the picture. @param {any} map */
export const otherKind = (map) => (map.kind === "visual" ? null : map.kind);

/** "demo, version 3 (default)" @param {any} map */
export function nameOf(map) {
  const marks = [otherKind(map), ...map.aliases].filter(Boolean);
  return `${map.model}, version ${map.version}${marks.length ? ` (${marks.join(", ")})` : ""}`;
}
