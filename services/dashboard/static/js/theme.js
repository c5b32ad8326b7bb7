// Runs before the first paint, so that no page flashes in the other theme.
const chosen = localStorage.getItem("headmap-theme");
const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.dataset.theme = dark ? "dark" : "light";
