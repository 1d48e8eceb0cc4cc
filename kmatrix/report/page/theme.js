"use strict";
// Light, dark, or as the system has it. `#theme=dark` in the address wins, then what was chosen here before.

const theme = (() => {
  const CHOICES = ["auto", "light", "dark"];
  const KEY = "kmatrix-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");

  // Some browsers give no storage to pages that are files.
  const remembered = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const remember = (name) => { try { localStorage.setItem(KEY, name); } catch { /* then for this page only */ } };

  const asked = () => new URLSearchParams(location.hash.slice(1)).get("theme");
  let chosen = [asked(), remembered()].find((name) => CHOICES.includes(name)) ?? "auto";

  const apply = () => {
    const dark = chosen === "dark" || (chosen === "auto" && system.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  };
  system.addEventListener("change", apply);
  apply();

  return {
    get chosen() { return chosen; },
    next() {
      chosen = CHOICES[(CHOICES.indexOf(chosen) + 1) % CHOICES.length];
      remember(chosen);
      apply();
    },
    fromAddress() {
      if (CHOICES.includes(asked())) { chosen = asked(); apply(); }
    },
  };
})();
