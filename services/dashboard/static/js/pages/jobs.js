// Jobs: start a profile, watch it, cancel it, try it again.
import { byId } from "../lib/dom.js";
import { offerModelsAndDatasets } from "../jobs/choices.js";
import { JobList, submitJob } from "../jobs/list.js";
import { profile } from "../jobs/profile.js";

const form = byId("start");
const jobs = new JobList(profile, "profile");

const auto = () => form.elements["how-many"].value === "auto";

form.addEventListener("change", () => {
  for (const [id, shown] of [["pages-number", !auto()], ["pages-auto", auto()]]) byId(id).hidden = byId(id).disabled = !shown;
});
form.dispatchEvent(new Event("change")); // a browser may have kept the choice over a reload

/** The fields that say how many pages; what is left empty is for the server to choose. */
function pages() {
  if (!auto()) return { pages: Number(byId("pages").value) };
  const given = (id, part = 1) => (byId(id).value === "" ? null : Number(byId(id).value) / part);
  return { pages: "auto", min_pages: given("min-pages"), max_pages: given("max-pages"), stable_overlap: given("overlap", 100) };
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submitJob(
    () =>
      jobs.start({
        model: byId("model").value.trim(),
        revision: byId("revision").value.trim() || null,
        kind: byId("kind").value,
        dataset: byId("dataset").value.trim(),
        ...pages(),
        rule: byId("rule").value,
        seed: Number(byId("seed").value),
        max_new_tokens: Number(byId("new-tokens").value),
        promote: { auto: "auto", yes: true, no: false }[byId("promote").value],
        force: byId("force").checked,
      }),
    "profile",
  );
});

await offerModelsAndDatasets();
