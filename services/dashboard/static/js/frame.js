// What every page has: the theme's switch and the key's.
import { byId } from "./lib/dom.js";
import { forgetKey, hasKey } from "./lib/key.js";

const root = document.documentElement;
const theme = byId("theme");

function showTheme() {
  theme.setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
}

theme.addEventListener("click", () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("headmap-theme", root.dataset.theme);
  showTheme();
});
showTheme();

const forget = byId("forget-key");
forget.addEventListener("click", async () => {
  await forgetKey();
  location.reload();
});
forget.hidden = !(await hasKey());
document.addEventListener("headmap:key", () => (forget.hidden = false));
