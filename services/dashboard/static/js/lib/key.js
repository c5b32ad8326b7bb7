// The API key: asked for once, kept by the server's session. This page forgets it as soon as it is sent.
import { h } from "./dom.js";
import { Problem, headline, lost } from "./problems.js";

const HEADERS = { "X-Requested-With": "headmap", "Content-Type": "application/json" };
const PATH = "/dashboard/session";

/** @type {Promise<void> | null} */
let asking = null;

/** Resolves once the session has a key that the services take; several calls share one dialog. */
export function askForKey() {
  asking ??= ask().finally(() => (asking = null));
  return asking;
}

export async function hasKey() {
  try {
    const answer = await fetch(PATH, { headers: HEADERS });
    return answer.ok && (await answer.json()).has_key;
  } catch {
    return false;
  }
}

export async function forgetKey() {
  await fetch(PATH, { method: "DELETE", headers: HEADERS });
}

function ask() {
  return new Promise((resolve, reject) => {
    const field = h("input", { id: "api-key", type: "password", autocomplete: "off", required: true, "aria-describedby": "api-key-hint api-key-error" });
    const error = h("p", { id: "api-key-error", class: "field-error", role: "alert" });
    const send = h("button", { type: "submit", class: "primary" }, "Continue");
    const dialog = h(
      "dialog",
      { class: "dialog", "aria-labelledby": "api-key-title" },
      h(
        "form",
        { method: "dialog", onsubmit: submit },
        h("h2", { id: "api-key-title" }, "API key"),
        h("p", { id: "api-key-hint", class: "hint" }, "This server asks for a key. It is kept on the server for this session, not in the browser."),
        h("label", { for: "api-key" }, "Key"),
        field,
        error,
        h("div", { class: "row end" }, h("button", { type: "button", onclick: () => dialog.close() }, "Not now"), send),
      ),
    );

    async function submit(event) {
      event.preventDefault();
      send.disabled = true;
      const problem = await give(field.value.trim());
      send.disabled = false;
      if (problem) {
        error.textContent = `${problem.code === "unauthorized" ? "The server does not know this key." : headline(problem)} (${problem.code})`;
        field.focus();
        return;
      }
      resolve();
      dialog.close();
      document.dispatchEvent(new Event("headmap:key"));
    }

    dialog.addEventListener("close", () => {
      dialog.remove();
      reject(new Problem({ code: "unauthorized", status: 401, detail: "no key was given" }));
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** @param {string} key @returns {Promise<Problem | null>} */
async function give(key) {
  try {
    const answer = await fetch(PATH, { method: "POST", headers: HEADERS, body: JSON.stringify({ key }) });
    return answer.ok ? null : new Problem(await answer.json());
  } catch {
    return lost();
  }
}
