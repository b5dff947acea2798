// Keeps a page up to date: when the server tells of a new look, the page is fetched again and what changed is put in
// its place. Without this script the pages are the same, and are reloaded by hand.
"use strict";
(() => {
  const root = document.documentElement;
  const follows = document.body.dataset.live === "true";
  let busy = false;
  let again = false;

  const shown = (health) => {
    root.dataset.health = health;
    const badge = document.getElementById("health");
    if (badge && badge.textContent !== health) {
      badge.textContent = health;
      badge.className = "badge " + health;
    }
  };

  const connected = (is) => {
    document.getElementById("connection").hidden = is;
  };

  // Who marks text or follows links by keyboard is not disturbed.
  const put = (id, page) => {
    const now = document.getElementById(id);
    const next = page.getElementById(id);
    if (!now || !next || now.innerHTML === next.innerHTML) return;
    const held = document.activeElement && now.contains(document.activeElement)
      ? document.activeElement.getAttribute("href") : null;
    now.replaceChildren(...next.childNodes);
    if (held) {
      const same = [...now.querySelectorAll("a[href]")].find((a) => a.getAttribute("href") === held);
      if (same) same.focus({ preventScroll: true });
    }
  };

  const refresh = async () => {
    if (busy) {
      again = true;
      return;
    }
    const marked = document.getSelection();
    if (document.hidden || (marked && !marked.isCollapsed)) return;
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected && new URL(answer.url).pathname === "/login") {
        location.reload();
        return;
      }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (page.documentElement.dataset.health) {
        put("main", page);
        shown(page.documentElement.dataset.health);
      }
    } catch {
      connected(false);
    } finally {
      busy = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  };

  // A browser tries again by itself when a connection breaks, but not after another answer than 200.
  const shortest = 1000;
  const longest = 30000;
  let pause = shortest;
  let first = true;
  let events = null;
  let timer = 0;
  const follow = () => {
    events = new EventSource("/live");
    events.addEventListener("look", (event) => {
      connected(true);
      pause = shortest;
      const look = JSON.parse(event.data);
      shown(look.health);
      // The page has just been loaded.
      if (follows && !first) refresh();
      first = false;
    });
    events.addEventListener("error", () => {
      connected(false);
      if (events.readyState !== EventSource.CLOSED) return;
      // A login that has ended leads to the form.
      if (follows) refresh();
      timer = setTimeout(follow, pause * (0.5 + Math.random() / 2));
      pause = Math.min(pause * 2, longest);
    });
  };
  follow();
  // A page that is kept for the way back would keep its connection, and browsers have six for a server.
  window.addEventListener("pagehide", () => {
    clearTimeout(timer);
    events.close();
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) follow();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && follows) refresh();
  });
})();
