// What every page shares: the theme, confirmation, and rows to pick. Everything works without it.
(function () {
  "use strict";
  var root = document.documentElement;

  // The theme: the system's until somebody chooses.
  var toggle = document.getElementById("theme-toggle");
  var systemDark = matchMedia("(prefers-color-scheme: dark)");
  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
  }
  function showTheme() {
    root.classList.toggle("is-dark", isDark());
    if (toggle) toggle.setAttribute("aria-pressed", String(isDark()));
  }
  if (toggle) {
    toggle.addEventListener("click", function () {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        localStorage.setItem("theme", root.dataset.theme);
      } catch (_) {
        // It holds for this page then.
      }
      showTheme();
    });
  }
  systemDark.addEventListener("change", showTheme);
  showTheme();

  // Confirmation: buttons with data-confirm ask before their form is sent.
  var dialog = document.getElementById("confirm");
  document.addEventListener("click", function (event) {
    var button = event.target.closest("button[data-confirm]");
    if (!button || !button.form || !dialog || !dialog.showModal || button.dataset.confirmed) return;
    event.preventDefault();
    var picked = button.form.querySelectorAll("input[name=id]:checked").length;
    function fill(text) {
      return (text || "").replaceAll("{n}", picked === 1 ? "1 user" : picked + " users");
    }
    dialog.querySelector("#confirm-title").textContent = fill(button.dataset.confirm);
    dialog.querySelector("#confirm-text").textContent = fill(button.dataset.confirmText);
    dialog.querySelector("#confirm-yes").textContent = button.dataset.confirmLabel || "Go on";
    dialog.returnValue = "no";
    dialog.showModal();
    dialog.onclose = function () {
      // What was asked about may be gone by now, on a page that follows the server.
      if (dialog.returnValue !== "yes" || !button.form) {
        button.focus();
        return;
      }
      var sure = document.createElement("input");
      sure.type = "hidden";
      sure.name = "confirm";
      sure.value = "yes";
      button.form.append(sure);
      button.dataset.confirmed = "yes";
      button.form.requestSubmit(button);
    };
  });

  // A restore may take minutes: how far it is, until its page comes.
  var restore = document.getElementById("restore-form");
  if (restore) {
    restore.addEventListener("submit", function () {
      var state = document.getElementById("restore-progress");
      state.hidden = false;
      restore.querySelectorAll("button").forEach(function (button) {
        button.setAttribute("aria-disabled", "true");
      });
      setInterval(function () {
        fetch("/api/v1/loaddata/progress")
          .then(function (answer) {
            return answer.json();
          })
          .then(function (now) {
            if (!now.running) return;
            state.querySelector("progress").max = now.total;
            state.querySelector("progress").value = now.done;
            state.querySelector("p").textContent =
              "Restored " + now.done.toLocaleString("en") + " of " + now.total.toLocaleString("en") + " users";
          })
          .catch(function () {
            // The page that comes tells more.
          });
      }, 500);
    });
    // Sent twice, it would only be done twice.
    restore.addEventListener("click", function (event) {
      if (event.target.closest("[aria-disabled]")) event.preventDefault();
    });
  }

  // htmx sends the token of the page with what it sends.
  document.addEventListener("htmx:configRequest", function (event) {
    var token = document.querySelector("meta[name=csrf-token]");
    if (token && token.content) event.detail.headers["X-CSRF-Token"] = token.content;
  });

  // Lists with rows to pick: all at once, and how many. The list may have been replaced since, so nothing is kept.
  document.addEventListener("change", function (event) {
    var all = document.getElementById("pick-all");
    if (!all) return;
    var picks = Array.from(all.form.querySelectorAll(".pick"));
    if (event.target === all) {
      picks.forEach(function (pick) {
        pick.checked = all.checked;
      });
    }
    var picked = picks.filter(function (pick) {
      return pick.checked;
    }).length;
    all.checked = picked > 0 && picked === picks.length;
    all.indeterminate = picked > 0 && picked < picks.length;
    document.getElementById("bulk-count").textContent = picked === 1 ? "1 user selected" : picked + " users selected";
  });
})();
