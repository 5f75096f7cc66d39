/* The plots of all pages. Vega and the specs (site/charts.py) are loaded when the first figure comes near the viewport.

   kpiCharts.draw(figure, spec, panels, options)    draw a spec once or several times, side by side where there is room
       panels     [{title, label, data: {dataset: rows}, signals: {name: value}, ends: (view) => rows}], or one {dataset: rows}
       options    {note, columns: [[field, heading]], rows: rows of the table under the plot, signals}
   kpiCharts.curves(figure, [payload...], task, axis)     learning curves by "seconds" or "step"
   kpiCharts.phases(figure, [payload...])                 seconds by phase
   kpiCharts.slices(figure, [payload...], task, family)   scores by group of queries
   kpiCharts.pair(figure, payloadA, payloadB)             scores of two submissions by task
   kpiCharts.families([payload...], task)                 families of slices
   kpiCharts.front(points, costIsHigh, valueIsHigh)       the points that no other beats, from cheap to costly

   Payloads are those of data/NAME.js. A figure keeps what else it holds; a later call replaces what an earlier one drew.
   On a board's page the figures plot-pareto, plot-dots, plot-phases and plot-slices follow their selects and the event "kpi:rows".
   Colours in the specs are CSS variables, so that a change of theme needs no drawing. */
(function () {
  "use strict";

  const bench = window.kpiBench;
  const { el, format } = bench;
  const here = document.currentScript;
  const assets = here.dataset.assets || here.src.replace(/[^/]*$/, "");

  const MOST_ROWS = 40;
  const OTHER_SERIES = 6; // Series with this number are drawn thin and muted.
  const PHASES = ["pretrain", "adapt", "predict"];
  const LABEL_HEIGHT = 13;
  const PANEL_WIDTH = 330;
  const NARROW = 520;
  const drawings = new WeakMap(); // figure -> what it shows
  let library = null;

  // Drawing -----------------------------------------------------------------------------------------------------------

  function loadLibrary() {
    library = library || Promise.all([bench.script(assets + "vega.js"), bench.script(assets + "specs.js")]);
    library.catch(() => (library = null));
    return library;
  }

  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      const drawing = drawings.get(target);
      drawing.near = true;
      if (drawing.onNear) drawing.onNear();
      render(target);
    }
  }, { rootMargin: "300px" });

  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const drawing = drawings.get(target);
      if (Math.abs(drawing.width - drawing.plots.clientWidth) < 2) continue;
      clearTimeout(drawing.timer);
      drawing.timer = setTimeout(() => render(target), 120);
    }
  });

  function drawingOf(figure) {
    if (drawings.has(figure)) return drawings.get(figure);
    const body = figure.querySelector(".chart-body") || figure.appendChild(el("div", { className: "chart-body" }));
    const drawing = {
      plots: el("div", { className: "chart-plots" }),
      note: el("p", { className: "chart-note muted", hidden: true }),
      numbers: el("details", { className: "chart-data", hidden: true }, el("summary", {}, "The numbers")),
      views: [], job: null, near: false, onNear: null, width: 0, timer: 0,
    };
    drawing.note.style.fontSize = "0.875rem";
    drawing.numbers.addEventListener("toggle", () => fillNumbers(drawing));
    body.replaceChildren(drawing.plots, drawing.note, drawing.numbers);
    drawings.set(figure, drawing);
    near.observe(figure);
    resized.observe(figure);
    return drawing;
  }

  function draw(figure, spec, panels, options) {
    const drawing = drawingOf(figure);
    const list = Array.isArray(panels) ? panels : [{ data: panels }];
    const job = { spec, panels: list, options: options || {} };
    job.done = new Promise((resolve) => (job.resolve = resolve));
    if (drawing.job) drawing.job.resolve(null);
    drawing.job = job;
    drawing.note.textContent = job.options.note || "";
    drawing.note.hidden = !job.options.note;
    drawing.numbers.hidden = !(job.options.columns && list.length);
    fillNumbers(drawing);
    render(figure);
    return job.done;
  }

  /* A sentence where there is nothing to draw. */
  const nothing = (figure, note) => draw(figure, "", [], { note });

  async function render(figure) {
    const drawing = drawings.get(figure);
    const { job, plots } = drawing;
    if (!job || !drawing.near) return;
    try {
      if (job.panels.length) await loadLibrary();
    } catch (error) {
      drawing.note.textContent = `The plot could not be drawn: ${error.message}.`;
      drawing.note.hidden = false;
      return;
    }
    if (job !== drawing.job) return;
    drawing.views.forEach((view) => view.finalize());
    const many = job.panels.length > 1;
    Object.assign(plots.style, many
      ? { display: "grid", gridTemplateColumns: `repeat(auto-fill, minmax(min(100%, ${PANEL_WIDTH}px), 1fr))`, gap: "1rem 2rem", maxWidth: "" }
      : { display: "block", maxWidth: "60rem" });
    // The page does not jump while the plots change, but once, and then the focus stays in view.
    Object.assign(plots.style, { height: `${plots.offsetHeight}px`, overflow: "hidden" });
    const boxes = job.panels.map(() => el("div", { className: "chart-plot" }));
    plots.replaceChildren(...boxes.map((box, i) => {
      const title = job.panels[i].title;
      return el("div", { className: "chart-panel" }, title ? el("h4", {}, title) : null, box);
    }));
    for (const panel of plots.children) panel.style.minWidth = "0";
    for (const heading of plots.querySelectorAll("h4")) heading.style.margin = "0.25rem 0";
    drawing.width = plots.clientWidth;
    drawing.views = drawing.width ? boxes.map((box, i) => view(box, job, job.panels[i])) : [];
    await Promise.all(drawing.views.map((one, i) => settle(one, job.panels[i])));
    if (job !== drawing.job) return;
    keepFocus(() => Object.assign(plots.style, { height: "", overflow: "" }));
    job.resolve(drawing.views);
  }

  function keepFocus(change) {
    const inView = (element) => {
      const box = element.getBoundingClientRect();
      return box.bottom > 0 && box.top < innerHeight;
    };
    const focused = document.activeElement;
    const seen = focused && focused !== document.body && inView(focused);
    change();
    if (seen && !inView(focused)) focused.scrollIntoView({ block: "nearest" });
  }

  function view(box, job, panel) {
    const spec = structuredClone(bench.specs[job.spec]);
    const narrow = box.clientWidth < NARROW;
    const signals = { name_limit: narrow ? 110 : 180, ...job.options.signals, ...panel.signals };
    for (const one of spec.signals) if (one.name in signals) one.value = signals[one.name];
    for (const one of spec.data) if (one.name in panel.data) one.values = panel.data[one.name].map((row) => (narrow && row.short ? { ...row, text: row.short } : { ...row }));
    const made = new vega.View(vega.parse(spec), { renderer: "svg", container: box, hover: false, tooltip: tip });
    made.description(panel.label || panel.title || job.options.label || job.spec);
    return made.width(box.clientWidth);
  }

  async function settle(made, panel) {
    await made.runAsync();
    if (panel.ends) await made.data("ends", panel.ends(made)).resize().runAsync();
  }

  function fillNumbers(drawing) {
    const { numbers, job } = drawing;
    numbers.querySelector(".table-scroll")?.remove();
    if (!numbers.open || !job || !job.options.columns) return;
    const { columns } = job.options;
    const rows = job.options.rows || job.panels.flatMap((panel) => Object.values(panel.data)[0]);
    const head = el("tr", {}, ...columns.map(([, heading]) => el("th", { scope: "col" }, heading)));
    const cell = (row, field, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, String(row[field] ?? format.absent));
    const body = rows.map((row) => el("tr", {}, ...columns.map(([field], i) => cell(row, field, i))));
    for (const one of [head, ...body].flatMap((row) => [...row.children])) {
      Object.assign(one.style, { textAlign: "left", padding: "0.1rem 1rem 0.1rem 0.25rem", fontWeight: one.tagName === "TH" ? "600" : "" });
    }
    const table = el("table", { className: "numbers" }, el("thead", {}, head), el("tbody", {}, ...body));
    Object.assign(table.style, { fontSize: "0.8125rem", fontVariantNumeric: "tabular-nums", whiteSpace: "nowrap" });
    numbers.append(el("div", { className: "table-scroll", tabIndex: 0, role: "region", ariaLabel: "The numbers of the plot" }, table));
  }

  // A tooltip of our own: Vega's own is a title attribute, which nobody waits for.
  const bubble = el("div", { className: "chart-tip", role: "tooltip", hidden: true });
  Object.assign(bubble.style, {
    position: "fixed", zIndex: "50", pointerEvents: "none", maxWidth: "22rem", padding: "0.35rem 0.6rem",
    font: "0.8125rem/1.4 system-ui, sans-serif", fontVariantNumeric: "tabular-nums", overflowWrap: "anywhere",
    color: "var(--text)", background: "var(--surface, var(--bg))", border: "1px solid var(--line)", borderRadius: "4px",
    boxShadow: "var(--shadow, none)",
  });

  function tip(handler, event, item, value) {
    bubble.hidden = value === null || value === undefined || typeof value !== "object";
    if (bubble.hidden) return;
    const lines = Object.entries(value).filter(([, text]) => text !== "" && text !== "null" && text !== "undefined");
    bubble.replaceChildren(...lines.map(([key, text], i) => el("div", {}, i ? `${key}: ` : "", el(i ? "span" : "strong", {}, String(text)))));
    if (!bubble.isConnected) document.body.append(bubble);
    const { width, height } = bubble.getBoundingClientRect();
    const [x, y] = [event.clientX + 14, event.clientY + 14];
    bubble.style.left = `${Math.max(4, Math.min(x, innerWidth - width - 8))}px`;
    bubble.style.top = `${y + height > innerHeight ? Math.max(4, event.clientY - height - 10) : y}px`;
  }
  addEventListener("scroll", () => (bubble.hidden = true), { passive: true, capture: true });

  // Shared by the plots -----------------------------------------------------------------------------------------------

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const spaced = (name) => name.replaceAll("_", " ");
  const seconds = (value) => format.cost("s", value);
  const counted = (n) => `${n} submission${n === 1 ? "" : "s"}`;
  const direction = (higher) => (higher ? "right is better" : "left is better");
  const interval = (low, high) => (low === null || low === undefined ? "" : `${format.score(low)} to ${format.score(high)}`);
  const scored = (value, low, high) => (interval(low, high) ? `${format.score(value)} [${interval(low, high)}]` : format.score(value));

  function logTicks(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (low === high) return [low];
    const steps = high < 5 * low ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : high < 100 * low ? [1, 2, 5] : [1];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const step of steps) ticks.push(Number(`${step}e${power}`));
    }
    return ticks;
  }

  function front(points, costIsHigh, valueIsHigh) {
    const cost = (point) => (costIsHigh ? -point.cost : point.cost);
    const loss = (point) => (valueIsHigh ? -point.value : point.value);
    const kept = [];
    for (const point of [...points].sort((a, b) => cost(a) - cost(b) || loss(a) - loss(b))) {
      const last = kept[kept.length - 1];
      const equal = last && cost(last) === cost(point) && loss(last) === loss(point);
      if (!last || equal || loss(point) < loss(last)) kept.push(point);
    }
    return kept;
  }

  /* The middle of a block of names, moved so that the block lies within the frame. */
  function inside(middle, count, height) {
    const half = ((count - 1) * LABEL_HEIGHT) / 2;
    return Math.min(Math.max(middle, half), height - half);
  }

  /* Names at the right of lines, in pixels, pushed apart; those with the lowest series first when not all fit. */
  function endsOf(lines) {
    return (made) => {
      const scale = made.scale("y");
      const height = made.height();
      const room = Math.max(1, Math.floor(height / LABEL_HEIGHT));
      const kept = [...lines].sort((a, b) => a.series - b.series).slice(0, room);
      const ends = kept.map((line) => ({ ...line, last: scale(line.value) })).sort((a, b) => a.last - b.last);
      // Names that would overlap form a block around the mean of their places; blocks that touch become one.
      const blocks = [];
      for (const end of ends) {
        let block = { ends: [end], middle: end.last };
        for (let above = blocks.at(-1); above && block.middle - above.middle < (LABEL_HEIGHT * (block.ends.length + above.ends.length)) / 2; above = blocks.at(-1)) {
          const all = [...blocks.pop().ends, ...block.ends];
          block = { ends: all, middle: inside(mean(all.map((one) => one.last)), all.length, height) };
        }
        blocks.push(block);
      }
      for (const { ends: some, middle } of blocks) {
        some.forEach((end, i) => (end.at = middle + (i - (some.length - 1) / 2) * LABEL_HEIGHT));
      }
      return ends;
    };
  }

  /* Stacked bars and their totals from [{name, seconds: {phase: number}}]. */
  function stacked(bars) {
    const rows = [];
    const totals = bars.map((bar) => {
      let end = 0;
      for (const phase of PHASES) {
        const value = bar.seconds[phase];
        if (value === undefined) continue;
        rows.push({ name: bar.name, phase, start: end, end: end + value, text: seconds(value) });
        end += value;
      }
      const parts = PHASES.map((phase) => (bar.seconds[phase] === undefined ? format.absent : seconds(bar.seconds[phase])));
      return { name: bar.name, end, text: parts.join(" + "), short: seconds(end), total: seconds(end), pretrain: parts[0], adapt: parts[1], predict: parts[2] };
    });
    return { rows, totals };
  }
  const PHASES_LEGEND = "Each bar, from left: pretrain (full), adapt (half), predict (faint); at its right the seconds in that order, or their sum where there is no room.";
  const PHASES_COLUMNS = [["name", "submission"], ["pretrain", "pretrain s"], ["adapt", "adapt s"], ["predict", "predict s"], ["total", "sum s"]];

  /* Lines over groups of queries from [{name, groups: [[group, value, queries]]}]; the first six can be told apart. */
  function drawSlices(figure, family, metric, higher, lines, note) {
    const order = groupsOf(lines.flatMap((line) => line.groups));
    const queries = new Map(lines.flatMap((line) => line.groups.map(([group, , n]) => [group, n])));
    const tick = (group) => `${spaced(group)}|n=${format.cost("", queries.get(group))}`;
    const points = order.flatMap((group) => lines.flatMap((line, i) =>
      line.groups.filter((one) => one[0] === group).map(([, value, n]) => ({
        name: line.name, group: tick(group), group_text: spaced(group), value, text: format.score(value), n_queries: n,
        series: Math.min(i, OTHER_SERIES),
      }))));
    if (!points.length) return nothing(figure, "None of the submissions shown has scores for these slices.");
    const columns = [["name", "submission"], ["group_text", "group"], ["text", metric], ["n_queries", "queries"]];
    const label = `${metric} by ${spaced(family)} of ${counted(lines.length)}`;
    if (order.length === 1) {
      const rows = points.map((point) => ({ ...point, lo: point.value, hi: point.value, rank: point.text, mark: "other" }));
      rows.sort((a, b) => (higher ? b.value - a.value : a.value - b.value));
      const x_title = `${metric} on ${spaced(family)} ${rows[0].group_text}, ${rows[0].n_queries} queries (${direction(higher)})`;
      return draw(figure, "dots", [{ label, data: { rows, chance: [] }, signals: { x_title } }], { columns, note });
    }
    const last = new Map(points.map((point) => [point.name, point]));
    const signals = { x_title: `${spaced(family)}, n queries`, y_title: `${metric} (${higher ? "up" : "down"} is better)` };
    return draw(figure, "slices", [{ label, data: { points, ends: [] }, signals, ends: endsOf([...last.values()]) }], { columns, note });
  }

  const WORDS = ["cold", "zero", "low", "mid", "medium", "high"];
  function groupsOf(entries) {
    const found = [...new Set(entries.map(([group]) => group))];
    const key = (group) => {
      const number = parseFloat(group);
      return Number.isNaN(number) ? WORDS.indexOf(group) : number;
    };
    return found.sort((a, b) => key(a) - key(b));
  }

  // Submissions -------------------------------------------------------------------------------------------------------

  function curves(figure, payloads, task, axis) {
    const panels = new Map();
    let inSeconds = axis !== "step";
    const all = payloads.flatMap((payload) => payload.tasks[task]?.curves.flat() || []);
    if (!all.length) return nothing(figure, "No learning curve was logged.");
    if (all.every((point) => point[0] === all[0][0])) inSeconds = false;
    payloads.forEach((payload, series) => {
      const of = payload.tasks[task];
      (of?.curves || []).forEach((curve, i) => {
        for (const [time, step, value, metric, phase] of curve) {
          const title = `${metric}, ${phase}`;
          if (!panels.has(title)) panels.set(title, { title, data: { points: [], ends: [] }, lasts: new Map() });
          const panel = panels.get(title);
          const point = {
            x: inSeconds ? time : step, value, line: `${series} ${i}`, series, name: payload.name, seed: of.seeds[i],
            x_text: `${seconds(time)} s, step ${step}`, value_text: format.score(value), title,
          };
          panel.data.points.push(point);
          const best = panel.lasts.get(series);
          if (!best || point.x >= best.x) panel.lasts.set(series, point);
        }
      });
    });
    const two = payloads.length > 1;
    const made = [...panels.values()].map((panel) => ({
      ...panel,
      label: `${panel.title} on ${task} while training`,
      signals: { x_title: inSeconds ? "seconds into the phase" : "step", y_title: "" },
      ends: two ? endsOf([...panel.lasts.values()]) : undefined,
    }));
    const columns = [["name", "submission"], ["seed", "seed"], ["title", "curve"], ["x_text", "at"], ["value_text", "value"]];
    const note = two
      ? `One line a seed; ${payloads[0].name} solid with circles, ${payloads[1].name} dashed with diamonds. Seconds compare on equal hardware only.`
      : "One line a seed.";
    return draw(figure, "curves", made, { columns, note });
  }

  function phasesOf(task) {
    const found = PHASES.filter((phase) => task.phases[phase]?.length);
    return Object.fromEntries(found.map((phase) => [phase, mean(task.phases[phase])]));
  }

  function phases(figure, payloads) {
    const tasks = [...new Set(payloads.flatMap((payload) => Object.keys(payload.tasks)))];
    const options = { columns: PHASES_COLUMNS, note: `Means over seeds. Pre-training serves all tasks and is shown at each as measured. ${PHASES_LEGEND}` };
    const signals = { x_title: "seconds" };
    if (payloads.length === 1) {
      const [payload] = payloads;
      const data = stacked(tasks.map((name) => ({ name, seconds: phasesOf(payload.tasks[name]) })));
      options.columns = [["name", "task"], ...PHASES_COLUMNS.slice(1)];
      return draw(figure, "phases", [{ label: `Seconds by phase of ${payload.name}`, data, signals }], { ...options, rows: data.totals });
    }
    const panels = tasks.map((task) => {
      const bars = payloads.filter((payload) => payload.tasks[task]);
      const data = stacked(bars.map((payload) => ({ name: payload.name, seconds: phasesOf(payload.tasks[task]) })));
      data.totals.forEach((total) => (total.task = task));
      return { title: task, label: `Seconds by phase on ${task}`, data, signals };
    });
    options.columns = [["task", "task"], ...PHASES_COLUMNS];
    return draw(figure, "phases", panels, { ...options, rows: panels.flatMap((panel) => panel.data.totals) });
  }

  const families = (payloads, task) => [...new Set(payloads.flatMap((payload) => payload.tasks[task]?.slices.map(([family]) => family) || []))];

  function slices(figure, payloads, task, family) {
    const chosen = family ?? families(payloads, task)[0];
    const shown = payloads.filter((payload) => payload.tasks[task]);
    const lines = shown.map((payload) => ({
      name: payload.name,
      groups: payload.tasks[task].slices.filter((one) => one[0] === chosen).map(([, group, value, n]) => [group, value, n]),
    }));
    if (!lines.some((line) => line.groups.length)) return nothing(figure, "There are no slices for this task.");
    const { metric, higher } = shown[0].tasks[task];
    return drawSlices(figure, chosen, metric, higher, lines, "");
  }

  function pair(figure, one, other) {
    const common = Object.keys(one.tasks).filter((task) => Object.hasOwn(other.tasks, task));
    if (!common.length) return nothing(figure, "The two have no task in common.");
    const panels = common.map((task) => {
      const rows = [one, other].map((payload, series) => {
        const of = payload.tasks[task];
        const [lo, hi] = of.ci_queries || [of.mean, of.mean];
        return { name: payload.name, task, value: of.mean, lo, hi, text: format.score(of.mean), series, interval: of.ci_queries ? interval(lo, hi) : null };
      });
      const { metric, higher } = one.tasks[task];
      return {
        title: task, data: { rows }, signals: { x_title: `${metric} (${direction(higher)})` },
        label: `${metric} on ${task}: ${rows.map((row) => `${row.name} ${scored(row.value, row.lo, row.hi)}`).join(", ")}`,
      };
    });
    const columns = [["task", "task"], ["name", "submission"], ["text", "score"], ["interval", "95 % interval"]];
    return draw(figure, "per_task_pair", panels, { columns, note: "Means over seeds with 95 % intervals over queries; each task has its own scale." });
  }

  window.kpiCharts = { draw, curves, phases, slices, pair, families, front };

  // A board's page ----------------------------------------------------------------------------------------------------

  function option(select, choices) {
    if (!select) return;
    const before = select.value;
    select.replaceChildren(...choices.map(([value, text]) => el("option", { value: String(value) }, text)));
    if (choices.some(([value]) => String(value) === before)) select.value = before;
    const field = select.closest(".field");
    if (field) field.hidden = choices.length < 2;
  }

  function wireBoard(board) {
    let shown = bench.shown || board.rows.map((_, place) => place);
    let plots = null; // payload of plots.js, once a figure that needs it was near
    const drawn = {};
    const other = (row) => row.hw !== board.hw;
    const label = (row) => `${row.floor ? "· " : ""}${row.name}`;
    const firstOf = (rows, what) => (rows.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${rows.length} submissions shown ${what}. ` : "");
    const floors = (rows) => (rows.some((row) => row.floor) ? "· is a floor. " : "");
    const needsPlots = (figure, then) => {
      if (plots) return then();
      return bench.load("plots", "plots.js").then((payload) => { plots = payload; then(); }).catch((error) => nothing(figure, `The plot's data could not be loaded: ${error.message}.`));
    };

    function pareto(figure, pick) {
      const cost = board.costs[Number(pick("cost"))];
      const at = Number(pick("cost"));
      const task = pick("task") === "mean" ? null : board.tasks[Number(pick("task"))];
      const place = board.tasks.indexOf(task);
      const points = [];
      for (const row of shown.map((number) => board.rows[number])) {
        const [value, lo, hi] = task ? row.cells[place] || [null] : [row.mean_rank, null, null];
        const amount = row.costs[at];
        if (value === null || amount === null || !(amount > 0)) continue;
        const timedAlike = !cost.by_rounds || row.rounds[0] > 0 === board.timed[row.hw];
        const comparable = row.cost_ranks[at] !== null && (cost.hardware_free || !other(row)) && timedAlike;
        points.push({
          name: row.name, kind: row.floor ? "floor" : row.fidelity === "reconstruction" ? "reconstruction" : "submission",
          state: comparable ? "compared" : "not compared", cost: amount, value, lo: lo ?? null, hi: hi ?? null,
          cost_text: `${format.cost(cost.unit, amount)}`, value_text: task ? scored(value, lo, hi) : value.toFixed(2),
        });
      }
      const without = shown.length - points.length;
      if (!points.length) return nothing(figure, `No submission shown has both ${task ? "this task" : "a mean rank"} and ${cost.label}.`);
      const higher = task ? task.higher : false;
      const best = front(points.filter((point) => point.state === "compared"), cost.higher, higher);
      for (const point of best) point.state = "on the front";
      const signals = {
        x_title: `${cost.label} (log scale${cost.higher ? ", left is faster" : ""})`,
        y_title: task ? `${task.metric} on ${task.name}` : "mean rank (up is better)",
        x_ticks: logTicks(points.map((point) => point.cost)), x_reverse: cost.higher, y_reverse: !higher,
      };
      const kinds = [["submission", "circle"], ["reconstruction", "triangle"], ["floor", "square"]].filter(([kind]) => points.some((point) => point.kind === kind));
      const note = `${kinds.map(([kind, shape]) => `${kind}: ${shape}`).join(", ")}. Bold: on the front; filled: compared; hollow: not compared (other hardware, not all tasks, or timed otherwise than most).`
        + ` Names are left out where they would overlap.${without ? ` ${without} of ${shown.length} submissions shown lack one of the two numbers.` : ""}`;
      const columns = [["name", "submission"], ["value_text", task ? task.metric : "mean rank"], ["cost_text", cost.label], ["state", "costs"]];
      // Names keep off this line, which Vega can only do of a line that has a point; one alone is not drawn.
      const stair = best.length ? best : points.slice(0, 1);
      const panel = { data: { points, front: stair }, signals, label: `${signals.y_title} against ${cost.label}; on the front: ${best.map((point) => point.name).join(", ")}` };
      return draw(figure, "pareto", [panel], { columns, note: note[0].toUpperCase() + note.slice(1) });
    }

    function dots(figure, pick) {
      const place = Number(pick("task"));
      const task = board.tasks[place];
      const having = shown.map((number) => board.rows[number]).filter((row) => row.cells[place]);
      const rows = having.slice(0, MOST_ROWS).map((row) => {
        const [value, lo, hi, rank, tied] = row.cells[place];
        return {
          name: label(row), value, lo: lo ?? value, hi: hi ?? value, text: format.score(value), interval: interval(lo, hi),
          rank: format.rank(rank, tied), mark: rank === 1 ? "best" : row.floor ? "floor" : "other",
        };
      });
      if (!rows.length) return nothing(figure, "No submission shown has this task.");
      rows.sort((a, b) => (task.higher ? b.value - a.value : a.value - b.value));
      const chance = task.chance === null ? [] : [{ value: task.chance, text: format.score(task.chance) }];
      const signals = { x_title: `${task.metric} (${direction(task.higher)})` };
      const columns = [["name", "submission"], ["text", task.metric], ["interval", "95 % interval"], ["rank", "rank"]];
      const note = `${firstOf(having, "that have this task")}Diamond and bold rank: the best group. ${floors(having)}${chance.length ? "Dashed line: chance." : ""}`;
      return draw(figure, "dots", [{ data: { rows, chance }, signals, label: `${task.metric} on ${task.name} of ${counted(rows.length)}` }], { columns, note });
    }

    function phasesOfBoard(figure, pick) {
      const place = pick("task") === "all" ? null : Number(pick("task"));
      const found = new Map();
      for (const [row, task, phase, value] of plots.phases) {
        if (place !== null && task !== place) continue;
        const sums = found.get(row) || found.set(row, {}).get(row);
        // Pre-training is done once for all tasks.
        if (phase === "pretrain") sums[phase] = Math.max(sums[phase] ?? 0, value);
        else sums[phase] = (sums[phase] ?? 0) + value;
      }
      const having = shown.filter((row) => found.has(row));
      if (!having.length) return nothing(figure, "No submission shown has this task.");
      const foreign = having.slice(0, MOST_ROWS).some((row) => other(board.rows[row]));
      const partial = place === null && having.slice(0, MOST_ROWS).some((row) => board.rows[row].covered < board.n_tasks);
      const data = stacked(having.slice(0, MOST_ROWS).map((row) => {
        const of = board.rows[row];
        const tasks = place === null && of.covered < board.n_tasks ? ` (${of.covered}/${board.n_tasks})` : "";
        return { name: label(of) + tasks + (other(of) ? " †" : ""), seconds: found.get(row) };
      }));
      const note = `${firstOf(having, "that have this task")}${PHASES_LEGEND} ${place === null ? "Pre-training counts once." : "Pre-training serves all tasks and is shown as measured."}`
        + `${partial ? " (2/6): covers only so many tasks." : ""}${foreign ? " †: other hardware than most rows, not to be compared with them." : ""}`;
      const where = place === null ? "all tasks covered" : board.tasks[place].name;
      return draw(figure, "phases", [{ data, signals: { x_title: `seconds, ${where}` }, label: `Seconds by phase, ${where}` }], { columns: PHASES_COLUMNS, rows: data.totals, note });
    }

    function slicesOfBoard(figure, pick, select) {
      const sliced = new Set(plots.slices.map((one) => one[1]));
      option(select("task"), tasks.filter(([place]) => sliced.has(place)));
      if (!sliced.size) return nothing(figure, "No task of this suite has slices.");
      const place = Number(pick("task"));
      const task = board.tasks[place];
      const here = plots.slices.filter((one) => one[1] === place);
      option(select("slice"), [...new Set(here.map((one) => one[2]))].map((family) => [family, spaced(family)]));
      const family = select("slice")?.value;
      const groups = new Map();
      for (const [row, , of, group, value, n] of here) {
        if (of !== family || value === null) continue;
        if (!groups.has(row)) groups.set(row, []);
        groups.get(row).push([group, value, n]);
      }
      const having = shown.filter((row) => groups.has(row));
      if (!having.length) return nothing(figure, "No submission shown has slices for this task.");
      const lines = having.slice(0, MOST_ROWS).map((row) => ({ name: label(board.rows[row]), groups: groups.get(row) }));
      const note = `${firstOf(having, "that have this task")}${lines.length > OTHER_SERIES ? `The first ${OTHER_SERIES} of the table are told apart by colour, dashes and shapes; search above to choose which.` : ""}`;
      return drawSlices(figure, family, task.metric, task.higher, lines, note);
    }

    const tasks = board.tasks.map((task, place) => [place, `${task.name} ${task.metric}`]);
    const costs = board.costs.map((cost, place) => [place, cost.label]).filter(([place]) => board.rows.some((row) => row.costs[place] > 0));
    const ranked = board.rows.some((row) => row.mean_rank !== null);
    const wired = {
      pareto: { draw: pareto, task: ranked ? [["mean", "mean rank"], ...tasks] : tasks },
      dots: { draw: dots, task: tasks },
      phases: { draw: phasesOfBoard, task: tasks.length > 1 ? [["all", "all tasks"], ...tasks] : tasks, lazy: true },
      slices: { draw: slicesOfBoard, task: tasks, lazy: true },
    };
    for (const [name, plot] of Object.entries(wired)) {
      const figure = document.getElementById(`plot-${name}`);
      if (!figure) continue;
      const select = (control) => figure.querySelector(`select[data-control="${control}"]`);
      const pick = (control) => select(control)?.value;
      option(select("task"), plot.task);
      option(select("cost"), costs);
      const amortised = costs.find(([place]) => board.costs[place].key === "amortised_s");
      if (amortised && select("cost")) select("cost").value = String(amortised[0]);
      const drawing = drawingOf(figure);
      const again = () => {
        if (!drawing.near) return;
        if (plot.lazy) needsPlots(figure, () => plot.draw(figure, pick, select));
        else plot.draw(figure, pick, select);
      };
      drawing.onNear = again;
      drawn[name] = again;
      for (const one of figure.querySelectorAll("select")) one.addEventListener("change", again);
    }
    let timer = 0;
    document.addEventListener("kpi:rows", (event) => {
      shown = event.detail.rows;
      clearTimeout(timer);
      timer = setTimeout(() => Object.values(drawn).forEach((again) => again()), 150);
    });
  }

  const data = document.getElementById("board-data");
  if (data) wireBoard(bench.board || JSON.parse(data.textContent));
})();
