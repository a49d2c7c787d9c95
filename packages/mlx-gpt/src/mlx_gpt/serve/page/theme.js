/* Light or dark, before the first paint: this file is no module, so the page waits for it. */

(() => {
  const NAME = "mlx-gpt theme";
  const show = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme; // as the system has it
  };
  let chosen = null;
  try {
    chosen = localStorage.getItem(NAME);
  } catch {
    // The browser forbids storage: the choice lasts as long as the page.
  }
  show(chosen);

  addEventListener("DOMContentLoaded", () => {
    const choices = document.getElementById("theme");
    choices.elements.theme.value = chosen ?? "system";
    choices.addEventListener("change", () => {
      const theme = choices.elements.theme.value;
      show(theme);
      try {
        localStorage.setItem(NAME, theme);
      } catch {
        // As above.
      }
    });
  });
})();
