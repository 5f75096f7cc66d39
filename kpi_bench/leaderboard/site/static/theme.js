/* First script of every page: what pages share.

   kpiBench.load(kind, url)      promise of the payload that the script at url hands to kpiBench.receive(kind, payload)
   kpiBench.script(url)          promise that the script at url has run (a library)
   kpiBench.receive(kind, data)  called by data files; the running script element says which load it answers
   kpiBench.theme()              "light" or "dark", as shown now
   kpiBench.onTheme(callback)    callback("light" | "dark") whenever that changes
   kpiBench.el(tag, properties, ...children)  an element; texts become text nodes, absent values are left out
   kpiBench.broken(name)         children for an element: the name, with places to break it
   kpiBench.format               numbers as the boards of the command line write them

   Data comes as scripts because a page opened from a file may neither fetch nor import. */
(function () {
  "use strict";

  const ABSENT = "-";
  const STORE = "kpi-bench-theme";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const listeners = [];
  const loads = new Map(); // url -> promise
  const handed = new WeakMap(); // script element -> {kind: payload}

  function receive(kind, payload) {
    const script = document.currentScript;
    if (script) handed.set(script, { ...handed.get(script), [kind]: payload });
  }

  function run(url) {
    if (loads.has(url)) return loads.get(url);
    const promise = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = () => resolve(script);
      script.onerror = () => {
        loads.delete(url);
        script.remove();
        reject(new Error(`could not load ${url}`));
      };
      document.head.append(script);
    });
    loads.set(url, promise);
    return promise;
  }

  function load(kind, url) {
    return run(url).then((script) => {
      const payloads = handed.get(script) || {};
      if (!(kind in payloads)) throw new Error(`${url} holds no ${kind}`);
      return payloads[kind];
    });
  }

  // Storage throws where cookies are blocked; the choice then lasts for the page.
  let choice = "system";
  try {
    choice = localStorage.getItem(STORE) || "system";
  } catch {
    choice = "system";
  }

  function theme() {
    if (choice === "light" || choice === "dark") return choice;
    return dark.matches ? "dark" : "light";
  }

  function apply() {
    if (root.dataset.theme === theme()) return;
    root.dataset.theme = theme();
    for (const listener of listeners) listener(theme());
  }

  function choose(next) {
    choice = next;
    try {
      localStorage.setItem(STORE, next);
    } catch {
      // Kept for this page only.
    }
    apply();
  }

  function el(tag, properties, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties || {})) {
      if (value === undefined || value === null || value === false) continue;
      if (key in node) node[key] = value;
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => ![null, undefined, false, ""].includes(child)));
    return node;
  }

  /** Parts of a name that may break after an underscore or the @ of a variant. */
  function broken(text) {
    return text.split(/(?<=[_@])/).flatMap((part, place) => (place ? [el("wbr"), part] : [part]));
  }

  function score(value) {
    const text = value.toFixed(Math.abs(value) < 10 ? 4 : 2);
    return text.replace(/^(-?)0\./, "$1.");
  }

  function significant(value) {
    if (value >= 100 || value === 0) return value.toFixed(0);
    return value.toFixed(value >= 10 ? 1 : 2);
  }

  function count(value) {
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (value >= size) return significant(value / size) + unit;
    }
    return Number.isInteger(value) ? String(value) : significant(value);
  }

  const format = {
    absent: ABSENT,
    score,
    fixed: (value, digits) => (value === null ? ABSENT : value.toFixed(digits)),
    half: (low, high) => (low === null || high === null ? "" : score((high - low) / 2)),
    rank: (rank, tied) => (rank === null ? "" : (tied ? "=" : "") + rank),
    plural: (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`,
    cost: (unit, value) => (value === null ? ABSENT : unit === "s" || unit === "MB" ? significant(value) : count(value)),
  };

  function wire() {
    const select = document.getElementById("theme");
    if (select) {
      select.value = ["light", "dark"].includes(choice) ? choice : "system";
      select.addEventListener("change", () => choose(select.value));
      select.closest("[hidden]")?.removeAttribute("hidden");
    }
    const menus = document.querySelectorAll("details.menu");
    const close = (menu) => menu.removeAttribute("open");
    document.addEventListener("click", (event) => {
      for (const menu of menus) if (!menu.contains(event.target)) close(menu);
    });
    for (const menu of menus) {
      menu.addEventListener("keydown", (event) => {
        if (event.key !== "Escape" || !menu.open) return;
        close(menu);
        menu.querySelector("summary").focus();
      });
    }
  }

  window.kpiBench = { receive, load, script: (url) => run(url).then(() => undefined), theme, el, broken, format };
  window.kpiBench.onTheme = (callback) => listeners.push(callback);
  dark.addEventListener("change", apply);
  apply();
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", wire);
  else wire();
})();
