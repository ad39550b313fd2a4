// Pages that follow what happens: takes the messages of the server (web/stream.rs) and brings the elements that they
// name up to date, without touching what did not change: focus, open details and what is being read stay.
(function () {
  "use strict";
  var root = document.querySelector("[data-live]");
  if (!root || !window.EventSource) return;
  var status = document.getElementById("live-status");
  var pause = document.getElementById("live-pause");
  var list = root.querySelector("[data-live-rows]");
  var source = null;
  var paused = false;
  var retry = 0;
  var wait = 1000;
  // What the server's clock is ahead of ours.
  var ahead = Number(root.dataset.now) - Date.now();

  function say(text, kind) {
    if (!status || status.textContent === text) return;
    status.textContent = text;
    status.className = "badge needs-js " + kind;
  }

  function disconnect() {
    clearTimeout(retry);
    if (source) source.close();
    source = null;
  }

  // Browsers open few connections to a server at a time: a page that nobody sees must not hold one.
  function connect() {
    disconnect();
    if (paused || document.hidden) return;
    source = new EventSource(root.dataset.live);
    source.onopen = function () {
      wait = 1000;
      say("Live", "ok");
    };
    source.onmessage = function (event) {
      show(JSON.parse(event.data));
    };
    source.onerror = function () {
      // A stream that ended is asked for again by the browser; one that was refused is not.
      if (source.readyState !== EventSource.CLOSED) return;
      say("Not connected", "warn");
      disconnect();
      retry = setTimeout(connect, wait);
      wait = Math.min(wait * 2, 60000);
    };
  }

  function show(message) {
    ahead = message.now - Date.now();
    var fresh = {};
    Object.keys(message.pieces).forEach(function (id) {
      var template = document.createElement("template");
      template.innerHTML = message.pieces[id];
      var piece = template.content.firstElementChild;
      var there = document.getElementById(id);
      if (!piece || piece.id !== id) return;
      if (there) morph(there, piece);
      else fresh[id] = piece;
    });
    if (list && message.rows) {
      var wanted = new Set(message.rows);
      Array.from(list.children).forEach(function (row) {
        if (!wanted.has(row.id)) row.remove();
      });
      message.rows.forEach(function (id, index) {
        var row = document.getElementById(id) || fresh[id];
        if (row && list.children[index] !== row) list.insertBefore(row, list.children[index] || null);
      });
    }
    count();
  }

  // Makes `old` look like `fresh` with as few changes as possible.
  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    Array.from(fresh.attributes).forEach(function (attribute) {
      if (old.getAttribute(attribute.name) !== attribute.value) old.setAttribute(attribute.name, attribute.value);
    });
    Array.from(old.attributes).forEach(function (attribute) {
      // Whether details are open is up to the one who reads them.
      if (attribute.name !== "open" && !fresh.hasAttribute(attribute.name)) old.removeAttribute(attribute.name);
    });
    // Its text is ours: see count().
    if (old.hasAttribute("data-since")) return;
    var children = Array.from(fresh.childNodes);
    children.forEach(function (child, index) {
      var there = old.childNodes[index];
      if (child.id) {
        // One that has moved, because others before it went.
        var same = Array.from(old.children).find(function (one) { return one.id === child.id; });
        if (same && same !== there) {
          old.insertBefore(same, there || null);
          there = same;
        }
      }
      if (!there) old.append(child);
      else if (there.nodeType !== child.nodeType || there.nodeName !== child.nodeName || (there.id || "") !== (child.id || "")) {
        if (there.id || child.id) old.insertBefore(child, there);
        else there.replaceWith(child);
      } else if (child.nodeType === Node.ELEMENT_NODE) morph(there, child);
      else if (there.nodeValue !== child.nodeValue) there.nodeValue = child.nodeValue;
    });
    while (old.childNodes.length > children.length) old.lastChild.remove();
  }

  function two(number) {
    return String(number).padStart(2, "0");
  }

  // Times that have passed: MM:SS or HH:MM:SS.
  function count() {
    var now = Date.now() + ahead;
    root.querySelectorAll("[data-since]").forEach(function (element) {
      var seconds = Math.max(0, Math.floor((now - Number(element.dataset.since)) / 1000));
      var hours = Math.floor(seconds / 3600);
      var text = two(Math.floor(seconds / 60) % 60) + ":" + two(seconds % 60);
      if (hours) text = two(hours) + ":" + text;
      if (element.textContent !== text) element.textContent = text;
    });
  }

  if (pause) {
    pause.addEventListener("click", function () {
      paused = !paused;
      pause.setAttribute("aria-pressed", String(paused));
      if (paused) {
        disconnect();
        say("Paused", "off");
      } else {
        say("Connecting", "off");
        connect();
      }
    });
  }
  document.addEventListener("visibilitychange", connect);
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", function (event) {
    if (event.persisted) connect();
  });
  setInterval(function () {
    if (!paused && !document.hidden) count();
  }, 1000);
  connect();
})();
