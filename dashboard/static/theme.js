// Light or dark: the system's choice, unless the user chose another in this browser. Runs before the page is painted.
"use strict";
(function () {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const chosen = function () {
    try { return localStorage.getItem("theme"); } catch (error) { return null; }
  };
  const apply = function () {
    root.dataset.theme = chosen() || (dark.matches ? "dark" : "light");
    window.dispatchEvent(new Event("themechange"));
  };
  apply();
  dark.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", function () {
    document.getElementById("theme").addEventListener("click", function () {
      const next = root.dataset.theme === "dark" ? "light" : "dark";
      try { localStorage.setItem("theme", next); } catch (error) { root.dataset.theme = next; }
      root.dataset.theme = next;
      window.dispatchEvent(new Event("themechange"));
    });
  });
})();
