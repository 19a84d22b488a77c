// Dark, light or as the system has it. Not a module, so that it runs before the page is drawn and nothing flashes.
(() => {
  const KEY = "fewstep-theme";
  const NEXT = { auto: "light", light: "dark", dark: "auto" };
  const SAID = { auto: "Auto", light: "Light", dark: "Dark" };
  const kept = () => {
    try {
      return localStorage.getItem(KEY) ?? "auto";
    } catch {
      return "auto"; // storage may be off
    }
  };
  const set = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (!button) return;
    button.querySelector("span").textContent = SAID[theme];
    button.setAttribute("aria-label", `Colors: ${theme === "auto" ? "as the system has them" : theme}`);
  };
  let theme = kept() in NEXT ? kept() : "auto";
  set(theme);
  document.addEventListener("DOMContentLoaded", () => {
    set(theme);
    document.getElementById("theme").addEventListener("click", () => {
      theme = NEXT[theme];
      set(theme);
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // then it lasts as long as the page
      }
    });
  });
})();
