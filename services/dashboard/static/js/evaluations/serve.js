// "Serve this": a policy of one point of an evaluation, which then has a model name of its own.
import { send } from "../lib/api.js";
import { formDialog } from "../lib/dialog.js";
import { announce } from "../lib/dom.js";
import { caseName } from "../lib/methods.js";
import { nameField } from "../lib/policies.js";

/** @param {any} evaluation @param {{method: string, ratio: number, select: any}} point @param {(policy: any) => void} onServed */
export function servePoint(evaluation, point, onServed) {
  const { name, field } = nameField(evaluation.model);
  formDialog({
    title: `Serve ${caseName(point, evaluation.params.selectors.length > 1)}`,
    fields: [field],
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
