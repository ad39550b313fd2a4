// The user form: presets, rows for directories, checks while typing, and a guard against losing what was typed.
// The form works without it; then the server does these things when the form is sent.
(function () {
  "use strict";
  var form = document.getElementById("user-form");
  if (!form) return;
  var dirs = document.getElementById("dirs");
  var summary = document.getElementById("error-summary");
  if (summary) summary.focus();

  // Presets: choosing one ticks the boxes, ticking boxes finds the preset that they are.
  function boxesOf(row) {
    return Array.from(row.querySelectorAll(".perms input"));
  }
  function showPreset(row) {
    var select = row.querySelector(".preset");
    var ticked = boxesOf(row).filter(function (box) {
      return box.checked;
    });
    var found = Array.from(select.options).find(function (option) {
      if (!option.value) return false;
      var tokens = option.dataset.tokens.split(" ");
      return (
        tokens.length === ticked.length &&
        ticked.every(function (box) {
          return tokens.includes(box.value);
        })
      );
    });
    select.options[0].textContent = "Custom";
    select.value = found ? found.value : "";
  }
  form.addEventListener("change", function (event) {
    var row = event.target.closest(".dir-row");
    if (!row) return;
    if (event.target.matches(".preset")) {
      var chosen = event.target.selectedOptions[0];
      if (!chosen.value) return;
      var tokens = chosen.dataset.tokens.split(" ");
      boxesOf(row).forEach(function (box) {
        box.checked = tokens.includes(box.value);
      });
    } else if (event.target.matches(".perms input")) {
      showPreset(row);
    }
  });
  form.querySelectorAll(".dir-row").forEach(showPreset);

  // Rows for directories.
  var next = dirs.querySelectorAll(".dir-row").length;
  document.getElementById("add-dir").addEventListener("click", function (event) {
    event.preventDefault();
    var template = document.getElementById("dir-template").innerHTML.replaceAll("NUMBER", String(next++));
    var holder = document.createElement("div");
    holder.innerHTML = template; // Ours: nothing of a user is in the template.
    var row = holder.firstElementChild;
    dirs.append(row);
    showPreset(row);
    row.querySelector("input").focus();
    changed();
  });
  form.addEventListener("click", function (event) {
    var remove = event.target.closest(".remove-dir");
    if (!remove) return;
    event.preventDefault();
    remove.closest(".dir-row").remove();
    document.getElementById("add-dir").focus();
    changed();
  });

  // What was typed and not saved.
  function state() {
    return new URLSearchParams(new FormData(form)).toString();
  }
  var initial = form.hasAttribute("data-dirty") ? null : state();
  var saving = false;
  function changed() {
    var dirty = state() !== initial;
    document.getElementById("save-state").textContent = dirty ? "Unsaved changes" : "";
    return dirty;
  }
  form.addEventListener("submit", function () {
    saving = true;
  });
  addEventListener("beforeunload", function (event) {
    if (!saving && state() !== initial) event.preventDefault();
  });
  addEventListener("pageshow", function () {
    saving = false;
  });

  // The server checks while somebody types; only fields that were touched are complained about.
  var touched = new Set();
  var pending = null;
  var asked = 0;
  function fieldOf(element) {
    var row = element.closest("#dirs .dir-row");
    if (row) return row.id.replace("-", ".");
    return element.closest("#permissions") ? "permissions" : element.name;
  }
  // Rows keep their numbers on the page, the server counts them in their order.
  function sentName(field) {
    if (!field.startsWith("dir.")) return field;
    var rows = Array.from(dirs.querySelectorAll(".dir-row"));
    return "dir." + rows.findIndex(function (row) {
      return row.id === field.replace(".", "-");
    });
  }
  function complain(field, reason) {
    var id = field.replace(".", "-");
    var place = document.getElementById(id + "-error");
    if (!place) return;
    place.textContent = reason || "";
    var control = document.getElementById(id);
    if (control && control.matches("fieldset")) control = control.querySelector("input[type=text]");
    if (!control) return;
    if (reason) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  }
  function showKeys(keys) {
    var list = document.getElementById("keys");
    var known = list.querySelector("svg");
    list.replaceChildren.apply(
      list,
      keys.map(function (key) {
        var item = document.createElement("li");
        function part(tag, name, text) {
          if (!text) return;
          var element = document.createElement(tag);
          if (name) element.className = name;
          element.textContent = visible(text);
          item.append(element);
        }
        if (known && key.valid) item.append(known.cloneNode(true));
        if (!key.valid) item.className = "bad-text";
        part("span", "key-kind", key.kind);
        part("code", "", key.fingerprint);
        part("bdi", "key-comment", key.comment);
        return item;
      })
    );
  }
  function visible(text) {
    return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, function (c) {
      return "U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    });
  }
  function check() {
    var number = ++asked;
    fetch("/web/user/check", {
      method: "POST",
      headers: { "X-CSRF-Token": document.querySelector("meta[name=csrf-token]").content },
      body: new URLSearchParams(new FormData(form)),
    })
      .then(function (answer) {
        return answer.ok ? answer.json() : null;
      })
      .then(function (answer) {
        if (!answer || number !== asked) return;
        touched.forEach(function (field) {
          complain(field, answer.errors[sentName(field)]);
        });
        showKeys(answer.keys);
        document.getElementById("warnings").replaceChildren.apply(
          document.getElementById("warnings"),
          answer.warnings.map(function (text) {
            var line = document.createElement("p");
            line.className = "warning-line";
            line.textContent = text;
            return line;
          })
        );
      })
      .catch(function () {
        // Sending the form will tell.
      });
  }
  form.addEventListener("input", function (event) {
    changed();
    if (!event.target.name || event.target.type === "password") return;
    touched.add(fieldOf(event.target));
    clearTimeout(pending);
    pending = setTimeout(check, 300);
  });
  changed();
})();
