// The OpenAPI documents, shown by Swagger UI. Where the services stand behind a gateway, each has its own.
import { address, get } from "../lib/api.js";
import { byId, h } from "../lib/dom.js";
import { Problem, notice } from "../lib/problems.js";

const BUNDLE = "/dashboard/static/swagger-ui/swagger-ui-bundle.js";
const root = document.documentElement;

async function start() {
  const place = byId("documents");
  try {
    const [found] = await Promise.all([documents(), load(BUNDLE)]);
    for (const spec of found) {
      const domNode = h("div", { class: "panel swagger" });
      place.append(domNode);
      window.SwaggerUIBundle({ spec, domNode, requestInterceptor: relayed, showMutatedRequest: false });
    }
    byId("problem").replaceChildren();
  } catch (error) {
    byId("problem").replaceChildren(notice(error, { text: "Try again", run: start }));
  } finally {
    place.removeAttribute("aria-busy");
  }
}

async function documents() {
  try {
    return [await get("/openapi.json")];
  } catch (error) {
    if (!(error instanceof Problem && error.status === 404)) throw error;
  }
  return Promise.all([get("/inference/openapi.json"), get("/scoring/openapi.json")]);
}

/** Calls go as those of all pages do: through the relay, which adds the session's key. */
function relayed(request) {
  const { pathname, search } = new URL(request.url, location.href);
  request.url = address(pathname) + search;
  request.headers = { ...request.headers, "X-Requested-With": "headmap" };
  return request;
}

function load(src) {
  return new Promise((resolve, reject) => {
    const failed = () => reject(new Problem({ code: "connection_lost", detail: "Swagger UI did not come" }));
    document.head.append(h("script", { src, onload: resolve, onerror: failed }));
  });
}

/** Swagger UI has a dark theme of its own. */
function follow() {
  root.classList.toggle("dark-mode", root.dataset.theme === "dark");
}
new MutationObserver(follow).observe(root, { attributeFilter: ["data-theme"] });
follow();

await start();
