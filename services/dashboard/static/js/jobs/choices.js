// What a form of a job can choose from. Where the services are away the list says so, and a name can still be typed.
import { get, servedModels } from "../lib/api.js";
import { byId, h } from "../lib/dom.js";

/** Fill the lists of #model and #dataset. */
export async function offerModelsAndDatasets() {
  const [models, datasets] = await Promise.all([servedModels(), get("/datasets", { limit: 100 })].map((one) => one.catch(() => null)));
  offer("models", models?.map((one) => one.id));
  offer("datasets", datasets && [...datasets.built_in, ...datasets.items].map((one) => one.name));
  byId("model").value ||= models?.[0]?.id ?? "";
}

function offer(id, names) {
  byId(id).replaceChildren(...(names ?? []).map((value) => h("option", { value })));
}
