// Runs before the page is painted: the theme that was chosen, and whether scripts run at all.
(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");
  try {
    var theme = localStorage.getItem("theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  } catch (_) {
    // No storage, no memory: the system's theme holds.
  }
})();
