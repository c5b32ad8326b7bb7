// "Serve this": a policy of one point of an evaluation, which then has a model name of its own.
import { send } from "../lib/api.js";
import { formDialog } from "../lib/dialog.js";
import { announce, h } from "../lib/dom.js";
import { caseName } from "../lib/methods.js";

/** @param {any} evaluation @param {{method: string, ratio: number, select: any}} point @param {(policy: any) => void} onServed */
export function servePoint(evaluation, point, onServed) {
  const name = h("input", { id: "policy-name", required: true, maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", value: "documents", autocomplete: "off", spellcheck: "false", "aria-describedby": "policy-hint" });
  formDialog({
    title: `Serve ${caseName(point, evaluation.params.selectors.length > 1)}`,
    fields: [
      h("div", { class: "field" }, h("label", { for: "policy-name" }, "Name of the policy"), name, h("p", { class: "hint", id: "policy-hint" }, `Any client then asks for ${evaluation.model}@NAME. A policy that has this name gets another version.`)),
    ],
    action: "Serve it",
    work: async () => {
      const body = { policy: name.value.trim(), method: point.method, ratio: point.ratio, select: point.select };
      const answer = await send(`/dashboard/api/evaluations/${evaluation.id}/promote`, { method: "POST", body });
      const policy = await answer.json();
      announce(`Served as ${policy.model}@${policy.name}`);
      onServed(policy);
    },
  });
}
