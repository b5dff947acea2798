// Keeps a page up to date: when the server tells of a new look, the page is fetched again and what changed is put in
// its place. Without this script the pages are the same, and are reloaded by hand.
"use strict";
(() => {
  const root = document.documentElement;
  const follows = document.body.dataset.live === "true";
  // Longest wait for a page, and the longest silence of the server, which tells of each look, every few seconds.
  const patience = 20000;
  const silence = 60000;
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
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(patience) });
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
  let heard = 0;
  const leave = () => {
    clearTimeout(timer);
    if (events) events.close();
    events = null;
  };
  const follow = () => {
    leave();
    heard = Date.now();
    events = new EventSource("/live");
    events.addEventListener("look", (event) => {
      heard = Date.now();
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
      if (!events || events.readyState !== EventSource.CLOSED) return;
      // A login that has ended leads to the form.
      if (follows) refresh();
      timer = setTimeout(follow, pause * (0.5 + Math.random() / 2));
      pause = Math.min(pause * 2, longest);
    });
  };
  follow();
  // A connection whose other end is gone without a word is not told as broken for many minutes.
  setInterval(() => {
    if (!events || Date.now() - heard < silence) return;
    connected(false);
    follow();
  }, 5000);
  // A page that nobody sees, or that is kept for the way back, would keep its connection, and browsers have six for a
  // server. When it is seen again, its first look brings it up to date.
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) follow();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) leave();
    else follow();
  });
})();
