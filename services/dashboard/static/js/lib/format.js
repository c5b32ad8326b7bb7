// Numbers as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 6138 -> "6,138" @param {number} value */
export const count = (value) => whole.format(value);

/** A count with its word: 1 page, 2 pages. @param {number} value @param {string} word */
export const counted = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

/** A share of 1 as per cent: three digits at most, never "0" for what is not nothing. @param {number} share */
export function percent(share) {
  const value = share * 100;
  if (value === 0 || value >= 99.95) return `${Math.round(value)} %`;
  if (value < 0.01) return "< 0.01 %";
  return `${value.toFixed(value < 1 ? 2 : 1)} %`;
}

/** 1572864 -> "1.5 MiB" @param {number} value */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? whole.format(value) : trimmed(value)} ${units[unit]}`;
}

const trimmed = (value) => value.toFixed(value < 10 ? 2 : 1).replace(/\.?0+$/, "");

/** Milliseconds, as seconds from ten thousand on. @param {number} value */
export function milliseconds(value) {
  if (value >= 10_000) return `${(value / 1000).toFixed(1)} s`;
  return `${value >= 100 ? whole.format(value) : trimmed(value)} ms`;
}

/** Seconds as "42 s", "3 min 5 s", "2 h 10 min". @param {number} seconds */
export function duration(seconds) {
  const all = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor((all % 3600) / 60), all % 60];
  if (hours) return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  if (minutes) return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
  return `${rest} s`;
}

const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** A time of the API in the reader's zone. @param {string} iso */
export const time = (iso) => moment.format(new Date(iso));
