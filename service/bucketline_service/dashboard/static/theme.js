/** The theme, light or dark: the system's, or the user's choice, which the browser keeps. */

const KEY = "bucketline.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ?? (system.matches ? "dark" : "light");
}

function apply(chosen) {
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  document.dispatchEvent(new Event("themechange"));
}

export function install(select) {
  select.value = localStorage.getItem(KEY) ?? "system";
  apply(select.value);
  select.addEventListener("change", () => {
    localStorage.setItem(KEY, select.value);
    apply(select.value);
  });
  system.addEventListener("change", () => apply(select.value));
}
