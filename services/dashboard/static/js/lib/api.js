// The REST APIs, through the dashboard's relay, which adds the session's key.
import { askForKey } from "./key.js";
import { Problem, lost } from "./problems.js";

const BASE = "/dashboard/api";

/**
 * Send a call; ask for the key where one is needed, then send it again. Throws Problem.
 * @param {string} path @param {{method?: string, body?: unknown, signal?: AbortSignal, headers?: Record<string, string>}} [options] @returns {Promise<Response>}
 */
export async function send(path, { method = "GET", body, signal, headers: more = {} } = {}) {
  const headers = { "X-Requested-With": "headmap", ...more, ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  const request = { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) };
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, request);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw lost();
    }
    if (answer.ok) return answer;
    if (answer.status !== 401) throw await problemOf(answer);
    await askForKey();
  }
}

async function json(path, options) {
  const answer = await send(path, options);
  try {
    return await answer.json();
  } catch {
    throw lost();
  }
}

/** @param {string} path below the API's root @param {Record<string, unknown>} [query] */
export const get = (path, query = {}) => json(`${BASE}${path}${queryOf(query)}`);
export const post = (path, body) => json(BASE + path, { method: "POST", body });
export const put = (path, options = {}) => json(BASE + path, { method: "PUT", ...options });
export const remove = (path, headers = {}) => send(BASE + path, { method: "DELETE", headers });

/** The models that are served, without their policies. */
export const servedModels = async () => (await get("/v1/models")).data.filter((one) => one.parent === null);

/** Of the dashboard itself, not of the APIs. @param {string} path */
export const own = (path) => json(`/dashboard${path}`);

/** A path to give to a picture or a link. @param {string} path @param {Record<string, unknown>} [query] */
export const address = (path, query = {}) => `${BASE}${path}${queryOf(query)}`;

/** All items of a paged list, at most `most`. @param {string} path @param {Record<string, unknown>} [query] */
export async function list(path, query = {}, most = 200) {
  const items = [];
  let cursor;
  do {
    const page = await get(path, { ...query, cursor, limit: Math.min(100, most - items.length) });
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < most);
  return items;
}

function queryOf(query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : "";
}

async function problemOf(answer) {
  try {
    const document = await answer.json();
    if (document.code) return new Problem(document);
  } catch {
    // not a problem document: a proxy's page, or nothing
  }
  return new Problem({ code: `http_${answer.status}`, status: answer.status, title: "The server refused", detail: `status ${answer.status}` });
}
