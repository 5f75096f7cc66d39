/* The board: draws the rows of #board-data, sorts and filters them, keeps its state in location.hash.

   kpiBench.board    the payload (site/data.py, board_payload)
   kpiBench.shown    places in its rows that pass the filters, in the order of the table
   event "kpi:rows"  on document, detail {rows: kpiBench.shown}, whenever those change

   Texts come from strangers: they reach the page as text nodes and attributes, never as HTML. */
(function () {
  "use strict";

  const bench = window.kpiBench;
  const { el, broken } = bench;
  const { score, fixed, half, rank, cost, plural, absent } = bench.format;
  const board = JSON.parse(document.getElementById("board-data").textContent);
  const rows = board.rows;
  const PAGE = 100;
  const UNFILTERED = {
    q: "", task: "", kind: "", fidelity: "", size: "", hw: "", tags: [], verified: "", complete: "", nofloors: "",
  };
  const DEFAULTS = { sort: "mean_rank", down: "", view: "quality", ...UNFILTERED, pick: [] };
  const NO_HARDWARE = "mixed";

  const byId = (id) => document.getElementById(id);
  const form = byId("filters");
  const table = byId("board");
  const [head, body, foot] = [table.tHead, table.tBodies[0], table.tFoot];
  const texts = rows.map((row) => [row.name, ...row.tags].join("\n").toLowerCase());
  const words = new Intl.Collator("en", { numeric: true });
  const places = new Map(rows.map((row, place) => [row.name, place]));

  let state = { ...DEFAULTS };
  let limit = PAGE;
  let columns = [];
  let drawn = ""; // what the rows in `nodes` were drawn for
  let nodes = []; // row elements by place, made when first needed
  let written = null; // the last hash this script wrote

  const link = (name) => `submissions/${encodeURIComponent(name)}.html`;

  function button(text, act, quiet) {
    const made = el("button", { type: "button", className: quiet ? "button quiet" : "button" }, text);
    made.addEventListener("click", act);
    return made;
  }

  // ---- State and hash

  function fromHash() {
    const parameters = new URLSearchParams(location.hash.slice(1));
    const next = { ...DEFAULTS };
    for (const [key, value] of parameters) {
      if (!(key in DEFAULTS)) continue;
      next[key] = Array.isArray(DEFAULTS[key]) ? [...next[key], value] : value;
    }
    if (!["quality", "costs", "both"].includes(next.view)) next.view = DEFAULTS.view;
    if (board.n_tasks === 1 || !tasksOf(next.task).length) next.task = "";
    next.pick = next.pick.filter((name) => places.has(name)).slice(0, 2);
    return next;
  }

  function toHash() {
    const parameters = new URLSearchParams();
    for (const [key, value] of Object.entries(state)) {
      if (Array.isArray(value)) value.forEach((one) => parameters.append(key, one));
      else if (value !== DEFAULTS[key]) parameters.set(key, value);
    }
    // An empty hash would scroll to the top.
    return `#${parameters.toString() || `view=${state.view}`}`;
  }

  /** Take a change of state; typing and picking replace the entry in the history, all else adds one. */
  function change(part, { replace = false } = {}) {
    Object.assign(state, "task" in part ? sortForTask(part.task) : {}, part);
    // Another order or another choice starts from its best rows, and stays fast.
    if (!("pick" in part)) limit = PAGE;
    draw();
    const hash = toHash();
    if (hash === location.hash) return;
    written = hash;
    if (replace) location.replace(hash);
    else location.hash = hash;
  }

  /** A task that is looked at alone is sorted by, until it no longer is. */
  function sortForTask(task) {
    const alone = task.startsWith("t:") && state.view !== "costs";
    return alone || state.sort === state.task ? { sort: alone ? task : DEFAULTS.sort, down: "" } : {};
  }

  // ---- Filters

  /** Places of the tasks that a choice means: "" all, "k:KIND" those of a kind, "t:TASK" one. */
  function tasksOf(choice) {
    const all = board.tasks.map((_, place) => place);
    if (choice.startsWith("k:")) return all.filter((place) => board.tasks[place].kind === choice.slice(2));
    if (choice.startsWith("t:")) return all.filter((place) => board.tasks[place].name === choice.slice(2));
    return all;
  }

  /** The place of the only task shown, or null. */
  function only(of) {
    return of.task.startsWith("t:") || board.n_tasks === 1 ? tasksOf(of.task)[0] : null;
  }

  /** A test of a row for every filter in force. */
  function tests(of) {
    const found = {};
    const tasks = tasksOf(of.task);
    const wanted = of.q.toLowerCase().split(/\s+/).filter(Boolean);
    if (wanted.length) found.q = (row, place) => wanted.every((word) => texts[place].includes(word));
    if (of.task) found.task = (row) => tasks.some((task) => row.cells[task]);
    for (const key of ["kind", "fidelity", "size"]) if (of[key]) found[key] = (row) => row[key] === of[key];
    if (of.hw) found.hw = (row) => (row.hw || NO_HARDWARE) === of.hw;
    if (of.tags.length) found.tags = (row) => of.tags.every((tag) => row.tags.includes(tag));
    if (of.verified) found.verified = (row) => row.verified;
    const complete = (row) => (of.task ? tasks.every((task) => row.cells[task]) : row.covered === board.n_tasks);
    if (of.complete) found.complete = complete;
    if (of.nofloors) found.nofloors = (row) => !row.floor;
    return found;
  }

  function passing(of) {
    const each = Object.values(tests(of));
    return rows.map((_, place) => place).filter((place) => each.every((test) => test(rows[place], place)));
  }

  function filterWords(key) {
    const field = form.elements[key];
    if (key === "q") return `search "${state.q}"`;
    if (key === "tags") return `tags ${state.tags.join(", ")}`;
    if (field.type === "checkbox") return field.parentElement.textContent.trim();
    const label = field.parentElement.firstChild.textContent.trim().toLowerCase();
    return `${label} ${key === "task" ? field.selectedOptions[0].textContent : state[key]}`;
  }

  // ---- Columns

  /** Of each column to be shown {key, head, unit, title, value(row), cell(row, td), up: best first is smallest first}. */
  function columnsOf(of) {
    const name = { key: "name", head: "submission", up: true, value: (row) => row.name };
    const costs = [...board.costs.map(costColumn).filter(Boolean), ...provenance()];
    if (of.view === "costs") return [name, ...costs];
    const one = only(of);
    const quality = one === null ? [...overall(), ...tasksOf(of.task).map(taskColumn)] : oneTask(one);
    if (of.view === "quality") return [name, ...quality];
    return [name, ...quality, { ...costs[0], first: true }, ...costs.slice(1)];
  }

  /** A column of numbers; what is not given: bigger is better. */
  const numeric = (key, head, value, cell, rest) => ({ key, head, num: true, value, cell, ...rest });

  function overall() {
    return [
      numeric("mean_rank", "mean rank", (row) => row.mean_rank, (row) => fixed(row.mean_rank, 2), { up: true }),
      numeric("covered", "tasks", (row) => row.covered, (row) => `${row.covered}/${board.n_tasks}`),
      numeric("borda", "Borda", (row) => row.borda, (row) => fixed(row.borda, 2)),
    ];
  }

  function taskColumn(place) {
    const task = board.tasks[place];
    const better = task.higher ? "higher" : "lower";
    const value = (row) => row.cells[place]?.[0] ?? null;
    return numeric(`t:${task.name}`, task.name, value, (row, td) => drawScore(row.cells[place], td), {
      unit: task.metric,
      title: `${task.name}: ${task.metric}, ${better} is better, ${plural(task.n_queries, "query", "queries")}`,
      up: !task.higher,
      score: true,
      chance: task.chance,
    });
  }

  /** With one task there is room for what a table of all tasks keeps in tooltips. */
  function oneTask(place) {
    const of = (part) => (row) => row.cells[place]?.[part] ?? null;
    const text = (part, write) => (row) => (of(part)(row) === null ? absent : write(of(part)(row), row.cells[place]));
    return [
      numeric("rank", "rank", of(3), text(3, (value, cell) => rank(value, cell[4])), { up: true }),
      taskColumn(place),
      numeric("low", "95 % from", of(1), text(1, score)),
      numeric("high", "to", of(2), text(2, score)),
      numeric("n_seeds", "seeds", of(5), text(5, String)),
      ...(rows.some((row) => of(6)(row) !== null) ? [toTarget(place, of(6), text(6, (value) => cost("s", value)))] : []),
      ...(board.n_tasks > 1 ? overall().slice(0, 1) : []),
    ];
  }

  function toTarget(place, value, cell) {
    const [name, goal] = board.tasks[place].target;
    const title = `seconds of adaptation until the score on valid is ${score(goal)}, the median best of ${name}; not compared between machines`;
    return numeric("to_target", "s to target", value, cell, { up: true, title });
  }

  /** A text where the means stand, with the room that interval and rank take. */
  function bareScore(text) {
    return [el("span", { className: "mean" }, text), el("span", { className: "ci" }), el("span", { className: "rank" })];
  }

  function drawScore(cell, td) {
    if (!cell) return bareScore(absent);
    const [mean, low, high, place, tied, seeds] = cell;
    const width = half(low, high);
    td.title = [
      width ? `95 % interval over queries ${score(low)} to ${score(high)}` : "no interval over queries",
      place === null ? "no rank: no per-query scores" : `rank ${place}${tied ? ", shared" : ""}`,
      plural(seeds, "seed"),
    ].join("; ");
    if (place === 1) td.classList.add("best");
    const parts = bareScore(score(mean));
    parts[1].textContent = width && `±${width}`;
    parts[2].textContent = rank(place, tied);
    return parts;
  }

  const reference = (of) => of.hw || board.hw;
  // Seconds of timed rounds leave out what a run pays once a process.
  const timedAlike = (row, column) => !column.by_rounds || row.rounds[0] > 0 === board.timed[row.hw];

  function costColumn(column, place) {
    const known = rows.filter((row) => row.costs[place] !== null);
    if (!known.length) return null;
    const parameters = board.costs.findIndex((other) => other.key === "parameters");
    // Where nothing was pruned, kept repeats params.
    if (column.key === "kept" && known.every((row) => row.costs[place] === row.costs[parameters])) return null;
    const cell = (row, td) => {
      if (row.costs[place] === null) return absent;
      const text = cost(column.unit, row.costs[place]);
      const position = row.cost_ranks[place];
      const here = column.hardware_free || row.hw === reference(state);
      if (position === null || !here || !timedAlike(row, column)) {
        td.classList.add("apart");
        const why = here && position !== null ? (row.rounds[0] ? "timed in rounds, as most are not" : "not timed in rounds, as most are") : "other hardware";
        td.title = `not compared: ${row.covered < board.n_tasks ? "not all tasks" : why}`;
        return `(${text})`;
      }
      if (position !== 1) return text;
      td.classList.add("best");
      td.title = `the ${column.higher ? "highest" : "lowest"} of those compared`;
      return [text, el("span", { className: "star" }, "*")];
    };
    return numeric(`c:${column.key}`, column.label, (row) => row.costs[place], cell, { up: !column.higher });
  }

  function provenance() {
    const seeds = (row) => [...new Set(row.seeds)].join("-");
    const rounds = (row) => (row.rounds[1] ? [...new Set(row.rounds)].join("-") : absent);
    const timed = rows.some((row) => row.rounds[1]) ? [numeric("rounds", "rounds", (row) => row.rounds[0] || null, rounds)] : [];
    const searched = rows.some((row) => row.search[0]) ? [numeric("search", "search", (row) => row.search[0] || null, (row) => row.search[1])] : [];
    // What the name's marks say already is left out.
    const flags = (row) => row.flags.filter((flag) => !["single_seed", "verified"].includes(flag)).join(", ");
    const hardware = (row, td) => {
      td.title = row.hw ? board.hardware[row.hw] || "" : "its tasks were run on several machines";
      return (row.hw || NO_HARDWARE) + (row.hw === reference(state) ? "" : "†");
    };
    return [
      { key: "hw", head: "hardware", up: true, value: (row) => row.hw, cell: hardware },
      numeric("seeds", "seeds", (row) => row.seeds[0], seeds),
      ...timed,
      ...searched,
      { key: "size", head: "size", up: true, value: (row) => row.size, cell: (row) => row.size },
      { key: "flags", head: "flags", up: true, value: (row) => flags(row) || null, cell: (row) => flags(row) || absent },
    ];
  }

  // ---- Order

  /** Best first, or worst first with state.down; absent values last either way; equal ones stay in the board's order. */
  function ordered(found) {
    const column = columns.find((one) => one.key === state.sort);
    if (!column) return found;
    const sign = (column.up ? 1 : -1) * (state.down ? -1 : 1);
    const values = new Map(found.map((place) => [place, column.value(rows[place])]));
    const compare = (a, b) => (typeof a === "string" ? words.compare(a, b) : a - b);
    return found.slice().sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * compare(x, y) || a - b;
    });
  }

  function sortBy(key) {
    const again = state.sort === key;
    change({ sort: key, down: again && !state.down ? "1" : "" });
    head.querySelector(`button[data-key="${CSS.escape(key)}"]`)?.focus();
  }

  // ---- Drawing

  function drawHead() {
    const cells = columns.map((column) => {
      const sorted = column.key === state.sort;
      const up = Boolean(column.up) !== Boolean(state.down);
      const sorter = el(
        "button",
        { type: "button", title: column.title, "data-key": column.key },
        el("span", {}, ...broken(column.head)),
        sorted && el("span", { className: "arrow", "aria-hidden": "true" }, up ? "▲" : "▼"),
        column.unit && el("span", { className: "unit" }, column.unit),
      );
      sorter.addEventListener("click", () => sortBy(column.key));
      const direction = sorted ? (up ? "ascending" : "descending") : null;
      return el("th", { scope: "col", className: classes(column), "aria-sort": direction }, sorter);
    });
    head.replaceChildren(el("tr", {}, ...cells));
  }

  function classes(column) {
    const found = [column.num && "num", column.score && "score", column.first && "first", column.key === "name" && "name"];
    return found.filter(Boolean).join(" ");
  }

  function drawName(row) {
    const pick = el("input", { type: "checkbox", className: "pick", "aria-label": `Compare ${row.name}` });
    pick.addEventListener("change", () => picked(row.name, pick.checked));
    const labels = [row.floor && "floor", row.fidelity === "reconstruction" && "reconstruction", row.seeds[0] === 1 && "1 seed"];
    const chips = labels.filter(Boolean).map((label) => el("span", { className: "chip" }, label));
    const name = el("a", { href: link(row.name), title: row.description }, ...broken(row.name));
    const word = el("span", { className: "visually-hidden" }, " verified");
    const tick = row.verified && el("span", { className: "tick", title: "verified" }, "✓", word);
    const text = el("span", {}, name, " ", tick, el("span", { className: "labels" }, ...chips));
    return el("th", { scope: "row", className: "name" }, el("div", {}, el("label", { className: "pick-area" }, pick), text));
  }

  function drawRow(place) {
    const row = rows[place];
    const cells = columns.slice(1).map((column) => {
      const td = el("td", { className: classes(column) });
      td.append(...[column.cell(row, td)].flat());
      return td;
    });
    const tr = el("tr", { className: row.floor ? "floor" : "" }, drawName(row), ...cells);
    tr.addEventListener("click", (event) => {
      if (event.target.closest("a, label, input, button") || getSelection().toString()) return;
      location.href = link(row.name);
    });
    return tr;
  }

  function drawRows(found) {
    const what = columns.map((column) => column.key).join() + reference(state);
    if (what !== drawn) nodes = [];
    drawn = what;
    body.replaceChildren(...found.slice(0, limit).map((place) => (nodes[place] ??= drawRow(place))));
    foot.replaceChildren(...(columns.some((column) => column.score && column.chance !== null) ? [drawChance()] : []));
  }

  function drawChance() {
    const cells = columns.slice(1).map((column) => {
      const parts = column.score ? bareScore(column.chance === null ? absent : score(column.chance)) : [];
      return el("td", { className: classes(column) }, ...parts);
    });
    return el("tr", {}, el("th", { scope: "row", className: "name", title: "what random scores would get" }, "(chance)"), ...cells);
  }

  function drawPaging(found) {
    const rest = found.length - limit;
    const more = (text, next) => button(text, () => {
      const first = limit;
      limit = next;
      draw();
      body.rows[first]?.querySelector("a").focus();
    });
    byId("paging").hidden = rest <= 0;
    byId("paging").replaceChildren();
    if (rest <= 0) return;
    const all = more(`Show all ${found.length.toLocaleString("en")}`, Infinity);
    byId("paging").append(more(`Show ${Math.min(PAGE, rest)} more`, limit + PAGE), " ", all);
  }

  function drawEmpty(found) {
    const box = byId("empty");
    box.hidden = found.length > 0;
    byId("table-region").hidden = !found.length;
    if (found.length) return;
    const buttons = Object.keys(tests(state)).flatMap((key) => {
      const n = passing({ ...state, [key]: DEFAULTS[key] }).length;
      return n ? [button(`Without ${filterWords(key)}: ${n}`, () => change({ [key]: DEFAULTS[key] }))] : [];
    });
    const why = buttons.length
      ? "No submission passes all filters. Loosen one:"
      : "No submission passes these filters, whichever one is loosened.";
    buttons.push(button("Clear all filters", clearFilters));
    box.replaceChildren(el("p", {}, why), el("p", { className: "toolbar" }, ...buttons));
  }

  function drawStatus(found) {
    const column = columns.find((one) => one.key === state.sort);
    const some = found.length === rows.length ? "" : `${found.length.toLocaleString("en")} of `;
    const parts = [some + plural(rows.length, "submission")];
    if (found.length > limit) parts.push(`the first ${limit} are shown`);
    if (found.length) parts.push(`by ${column ? column.head : "mean rank"}${state.down ? ", reversed" : ""}`);
    byId("count").textContent = parts.join(", ");
    const active = Object.keys(UNFILTERED).filter((key) => String(state[key]) !== String(DEFAULTS[key]));
    const folded = active.filter((key) => key !== "q" && key !== "task").length;
    byId("active").textContent = folded ? ` (${folded})` : "";
    byId("clear").hidden = !active.length;
  }

  function drawLegend() {
    const lines = [];
    const several = only(state) === null;
    if (state.view !== "costs") {
      lines.push(
        `${several ? "±: half of the 95 %" : "95 %:"} bootstrap interval over queries. =2: rank shared, the paired test ` +
          "(corrected for all pairs) cannot separate. Bold: rank 1. Ranks are those of the whole board, whatever the filters.",
      );
      if (several) {
        lines.push(
          "mean rank: over tasks, only when all are covered. Borda: share of the other rows beaten, mean over tasks.",
        );
      }
    }
    if (state.view !== "quality") {
      const machine = reference(state);
      const words = machine && board.hardware[machine] ? ` (${board.hardware[machine]})` : "";
      const than = machine ? ` than ${machine}${words}` : "";
      lines.push(
        `(cost): not compared, because the row does not cover all tasks or was run on other hardware (†)${than}.` +
          (rows.some((row) => row.rounds[0]) ? " Seconds of timed rounds and of runs are not compared with each other: those of the fewer rows stand in parentheses, too." : ""),
        "Costs are means over seeds, of all tasks that the row covers. *: the lowest of those compared " +
          "(queries/s: the highest). MB = 10^6 bytes.",
      );
      if (rows.some((row) => row.rounds[1])) {
        lines.push("rounds: adapt and predict are medians over so many timed rounds of one seed, everything warm, where every task has them; else means over the runs.");
      }
    }
    if (state.view !== "quality" && rows.some((row) => row.search[0])) {
      lines.push("search: trials of kpi-bench tune that chose the parameters, on valid, and the seconds of their runs.");
    }
    if (rows.some((row) => row.verified)) {
      lines.push("✓: verified, the predictions of every task were scored again with the same outcome.");
    }
    byId("legend").replaceChildren(...lines.map((line) => el("p", {}, line)));
  }

  function drawCompare() {
    const bar = byId("compare-bar");
    bar.hidden = !state.pick.length;
    document.body.classList.toggle("comparing", Boolean(state.pick.length));
    const clear = () => {
      change({ pick: [] }, { replace: true });
      byId("table-region").focus();
    };
    const [a, b] = state.pick.map(encodeURIComponent);
    const go = b
      ? el("a", { className: "button primary", href: `compare.html?a=${a}&b=${b}` }, `Compare ${state.pick.join(" with ")}`)
      : el("span", {}, el("b", {}, state.pick[0]), " is picked; pick another to compare");
    bar.replaceChildren(...(a ? [go, button("Clear", clear, true)] : []));
    for (const place of nodes.keys()) {
      if (!nodes[place]) continue;
      const on = state.pick.includes(rows[place].name);
      nodes[place].classList.toggle("picked", on);
      nodes[place].querySelector(".pick").checked = on;
    }
  }

  /** The first pick stays; a third takes the place of the second, so that one row can be held against others in turn. */
  function picked(name, on) {
    const rest = state.pick.filter((one) => one !== name);
    change({ pick: on ? [...rest.slice(0, 1), name] : rest }, { replace: true });
  }

  function drawForm() {
    for (const key of Object.keys(DEFAULTS)) {
      const field = form.elements[key];
      if (!field || key === "tags" || key === "sort") continue;
      if (field.type === "checkbox") field.checked = Boolean(state[key]);
      else if (field.value !== state[key]) field.value = state[key];
    }
    const orders = columns.map((column) => el("option", { value: column.key }, column.head));
    form.elements.sort.replaceChildren(...orders);
    form.elements.sort.value = state.sort;
    for (const box of byId("tags").querySelectorAll("input")) box.checked = state.tags.includes(box.value);
    byId("tags").querySelector("summary").textContent = state.tags.join(", ") || "any";
  }

  function draw() {
    columns = columnsOf(state);
    const one = only(state);
    if (!columns.some((column) => column.key === state.sort)) {
      state.sort = one !== null && state.view !== "costs" ? `t:${board.tasks[one].name}` : DEFAULTS.sort;
    }
    byId("table-region").classList.toggle("one-task", one !== null);
    byId("table-region").classList.toggle("fit", columns.length < 10);
    const found = ordered(passing(state));
    drawForm();
    drawHead();
    drawRows(found);
    drawPaging(found);
    drawEmpty(found);
    drawStatus(found);
    drawLegend();
    drawCompare();
    const changed = String(found) !== String(bench.shown);
    bench.shown = found;
    if (changed) document.dispatchEvent(new CustomEvent("kpi:rows", { detail: { rows: found } }));
  }

  // ---- The form

  function clearFilters() {
    change({ ...UNFILTERED });
    form.elements.q.focus();
  }

  function counted(values) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return [...counts].sort((a, b) => words.compare(a[0], b[0]));
  }

  function fillForm() {
    const option = (value, text) => el("option", { value }, text);
    const fields = form.elements;
    fields.task.parentElement.hidden = board.n_tasks === 1;
    const group = (label, options) => fields.task.append(el("optgroup", { label }, ...options));
    const kinds = counted(board.tasks.map((task) => task.kind));
    if (kinds.length > 1) group("kind", kinds.map(([kind, n]) => option(`k:${kind}`, `${kind.replaceAll("_", " ")} (${n})`)));
    group("one task", board.tasks.map((task) => option(`t:${task.name}`, task.name)));
    for (const key of ["kind", "fidelity", "size"]) {
      fields[key].append(...counted(rows.map((row) => row[key])).map(([value, n]) => option(value, `${value} (${n})`)));
    }
    for (const [hw, n] of counted(rows.map((row) => row.hw || NO_HARDWARE))) {
      fields.hw.append(option(hw, [`${hw} (${n})`, board.hardware[hw]].filter(Boolean).join(": ")));
    }
    for (const [tag, n] of counted(rows.flatMap((row) => row.tags))) {
      const box = el("input", { type: "checkbox", name: "tag", value: tag });
      const label = el("label", { className: "check" }, box, ` ${tag} `, el("span", { className: "muted" }, String(n)));
      byId("tags").querySelector("fieldset").append(label);
    }
  }

  function onInput(event) {
    const field = event.target;
    const ticked = byId("tags").querySelectorAll("input:checked");
    if (field.name === "tag") return change({ tags: [...ticked].map((box) => box.value) });
    if (field.name === "sort") return change({ sort: field.value, down: "" });
    if (field.name === "q") return change({ q: field.value }, { replace: true });
    return change({ [field.name]: field.type === "checkbox" ? (field.checked ? "1" : "") : field.value });
  }

  fillForm();
  form.addEventListener("input", onInput);
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", clearFilters);
  const wide = window.matchMedia("(min-width: 60rem)");
  const unfold = () => (byId("more").open = wide.matches);
  wide.addEventListener("change", unfold);
  unfold();
  window.addEventListener("hashchange", () => {
    // A hash without "=" is a jump inside of the page, and one that this script wrote is drawn already.
    if (location.hash === written || (location.hash && !location.hash.includes("="))) return;
    written = location.hash;
    state = fromHash();
    draw();
  });
  bench.board = board;
  form.hidden = byId("plots").hidden = false;
  if (location.hash.includes("=")) state = fromHash();
  draw();
})();
