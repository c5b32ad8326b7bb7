// A dialog with a form: it stays open with the problem where the work fails, and closes when it is done.
import { h, newId } from "./dom.js";
import { notice } from "./problems.js";

/**
 * @param {{title: string, fields: any[], action: string, work: () => Promise<void>}} options
 * `work` reads the fields and throws a Problem where it fails.
 */
export function formDialog({ title, fields, action, work }) {
  const id = newId("dialog");
  const problem = h("div");
  const send = h("button", { type: "submit", class: "primary" }, action);
  const dialog = h(
    "dialog",
    { class: "dialog", "aria-labelledby": id },
    h("form", { method: "dialog", onsubmit: submit }, h("h2", { id }, title), ...fields, problem, h("div", { class: "row end" }, h("button", { type: "button", onclick: () => dialog.close() }, "Close"), send)),
  );

  async function submit(event) {
    event.preventDefault();
    send.disabled = true;
    problem.replaceChildren();
    try {
      await work();
      dialog.close();
    } catch (error) {
      problem.replaceChildren(notice(error));
    } finally {
      send.disabled = false;
    }
  }

  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
