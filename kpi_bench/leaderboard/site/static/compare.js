/* Two submissions side by side: kpi_bench/leaderboard/compare.py in the page, from resamples that all rows share.

   kpiCompare.decodeFloats(base64)              little-endian float32 -> Float64Array
   kpiCompare.percentile(values, q)             linear, q in percent
   kpiCompare.holm(pValues)                     Holm's adjusted p, in the order given
   kpiCompare.pairedMean(a, b, n)               {difference, p, interval|null}: a minus b, of two resamples of kind "mean" over n queries
   kpiCompare.pairedMacroF1(a, b)               the same, of kind "macro_f1"

   Texts come from strangers: they reach the page as text nodes only, and names reach a URL only if the page lists them. */
(function () {
  "use strict";

  const SLACK = 1e-6; // sums are float32: what comes so near to the observed difference counts as extreme

  function decodeFloats(base64) {
    const octets = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const view = new DataView(octets.buffer);
    return Float64Array.from({ length: octets.length / 4 }, (_, place) => view.getFloat32(4 * place, true));
  }

  function percentile(values, q) {
    const sorted = Float64Array.from(values).sort();
    const place = (q / 100) * (sorted.length - 1);
    const low = Math.floor(place);
    const high = Math.min(low + 1, sorted.length - 1);
    return sorted[low] + (place - low) * (sorted[high] - sorted[low]);
  }

  function holm(pValues) {
    const order = pValues.map((_, place) => place).sort((i, j) => pValues[i] - pValues[j]);
    const adjusted = new Array(pValues.length);
    let least = 0;
    order.forEach((place, step) => {
      least = Math.max(least, pValues[place] * (pValues.length - step));
      adjusted[place] = Math.min(least, 1);
    });
    return adjusted;
  }

  function spread(a, b) {
    const [drawnA, drawnB] = [decodeFloats(a.bootstrap), decodeFloats(b.bootstrap)];
    if (!drawnA.length) return null;
    const differences = drawnA.map((value, draw) => value - drawnB[draw]);
    return [percentile(differences, 2.5), percentile(differences, 97.5)];
  }

  function pairedMean(a, b, n) {
    const total = a.totals - b.totals;
    const least = Math.abs(total) - SLACK * (Math.abs(a.totals) + Math.abs(b.totals));
    const [swapsA, swapsB] = [decodeFloats(a.swaps), decodeFloats(b.swaps)];
    let count = 0;
    swapsA.forEach((value, swap) => {
      if (Math.abs(total - 2 * (value - swapsB[swap])) >= least) count += 1;
    });
    return { difference: total / n, p: (count + 1) / (swapsA.length + 1), interval: spread(a, b) };
  }

  /* counts: true positives by class, then predictions by class */
  function macroF1(counts, sizes) {
    let sum = 0;
    sizes.forEach((size, label) => {
      const both = size + counts[sizes.length + label];
      if (both > 0) sum += (2 * counts[label]) / both;
    });
    return sum / sizes.length;
  }

  function pairedMacroF1(a, b) {
    const [sizes, width] = [a.sizes, a.totals.length];
    const [swapsA, swapsB] = [decodeFloats(a.swaps), decodeFloats(b.swaps)];
    const difference = macroF1(a.totals, sizes) - macroF1(b.totals, sizes);
    const [afterA, afterB] = [new Float64Array(width), new Float64Array(width)];
    let count = 0;
    for (let start = 0; start < swapsA.length; start += width) {
      for (let place = 0; place < width; place += 1) {
        const change = swapsB[start + place] - swapsA[start + place];
        afterA[place] = a.totals[place] + change;
        afterB[place] = b.totals[place] - change;
      }
      if (Math.abs(macroF1(afterA, sizes) - macroF1(afterB, sizes)) >= Math.abs(difference) - SLACK) count += 1;
    }
    return { difference, p: (count + 1) / (swapsA.length / width + 1), interval: spread(a, b) };
  }

  window.kpiCompare = { holm, pairedMean, pairedMacroF1, percentile, decodeFloats };

  // From two payloads to what is shown -------------------------------------------------------------------------------

  const ALPHA = 0.05;

  /* The paired test of a task; its "why" says in words what kept it from being made. */
  function test(a, b) {
    const untested = (why) => ({ difference: a.mean - b.mean, p: null, interval: null, why });
    if (!a.resamples || !b.resamples) return untested("not tested: no per-query scores");
    if (a.resamples.queries !== b.resamples.queries || a.resamples.kind !== b.resamples.kind) {
      return untested("not tested: scored on different queries");
    }
    return a.resamples.kind === "mean" ? pairedMean(a.resamples, b.resamples, a.n_queries) : pairedMacroF1(a.resamples, b.resamples);
  }

  function compareTasks(a, b, tasks) {
    const found = tasks.map((task) => ({ task, a: a.tasks[task], b: b.tasks[task], ...test(a.tasks[task], b.tasks[task]) }));
    const tested = found.filter(({ p }) => p !== null);
    holm(tested.map(({ p }) => p)).forEach((adjusted, place) => {
      const one = tested[place];
      one.adjusted = adjusted;
      if (adjusted < ALPHA) one.winner = one.difference > 0 === one.a.higher ? a.name : b.name;
    });
    return found;
  }

  const page = document.getElementById("compare-data");
  if (page) show(JSON.parse(page.textContent));

  // The page ---------------------------------------------------------------------------------------------------------

  function show(data) {
    const { score, cost, absent } = window.kpiBench.format;
    const byId = (id) => document.getElementById(id);
    const form = byId("pair");
    const names = new Set(data.names);
    const asked = new URLSearchParams(location.search);
    const [a, b] = ["a", "b"].map((side) => (asked.get(side) || "").trim());

    const signed = (value) => (value < 0 ? "" : "+") + score(value);
    const pValue = (value) => (value < 0.001 ? "<.001" : score(Math.round(value * 1000) / 1000).slice(0, -1));
    const quoted = (text) => (/^[\w.@/][\w.@/-]*$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`); // as shlex.quote
    const list = (items) => items.join(", ");
    const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

    function el(tag, properties, ...children) {
      const node = Object.assign(document.createElement(tag), properties);
      node.append(...children);
      return node;
    }

    /* Long names may break after an underscore. */
    function breakable(text) {
      const parts = text.split(/(?<=_)/);
      return el("span", {}, ...parts.flatMap((part, place) => (place ? [el("wbr"), part] : [part])));
    }

    const permalink = (left, right) => `compare.html?a=${encodeURIComponent(left)}&b=${encodeURIComponent(right)}`;
    const submission = (name) => el("a", { href: `submissions/${encodeURIComponent(name)}.html` }, name);

    /* cells of a row: texts or nodes, the first its header; texts: the headers of columns that hold no numbers */
    function table(id, headers, rows, texts = []) {
      const side = (place) => (texts.includes(headers[place]) ? "text" : "");
      const head = headers.map((text, place) => el("th", { scope: "col", className: side(place) }, text));
      const body = rows.map(([name, ...cells]) =>
        el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell, place) => el("td", { className: side(place + 1) }, cell))));
      byId(id).replaceChildren(el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body));
    }

    function message(text, ...more) {
      byId("message").replaceChildren(text, ...more);
      byId("message").hidden = false;
    }

    /* What is wrong with the names asked for, in words; null when they can be compared. */
    function complaint() {
      if (data.names.length < 2) return "This suite has one submission: there is nothing to compare it with.";
      const unknown = [...new Set([a, b])].filter((name) => name && !names.has(name));
      if (unknown.length) return `${data.suite} has no submission ${list(unknown.map((name) => `“${name}”`))}.`;
      if (!a || !b) return a || b ? `Choose a second submission to compare ${a || b} with.` : "Choose two submissions.";
      return a === b ? `${a} is on both sides. Choose two different submissions.` : null;
    }

    /* Names that contain what was typed, as links to a comparison with the other side. */
    function suggestions() {
      const nodes = [];
      [[a, (name) => permalink(name, b)], [b, (name) => permalink(a, name)]].forEach(([typed, url]) => {
        if (!typed || names.has(typed)) return;
        const like = data.names.filter((name) => name.toLowerCase().includes(typed.toLowerCase())).slice(0, 8);
        like.forEach((name, place) => nodes.push(place ? ", " : " Did you mean ", el("a", { href: url(name) }, name)));
        if (like.length) nodes.push("?");
      });
      return nodes;
    }

    function verdict({ winner, why }) {
      if (winner) return el("b", {}, `${winner} is better`);
      return el("span", { className: "muted" }, why || "cannot be told apart");
    }

    function summarise(found) {
      const won = (name) => found.filter(({ winner }) => winner === name).map(({ task }) => task);
      const tested = found.filter(({ p }) => p !== null);
      const parts = [a, b].filter((name) => won(name).length).map((name) => `${name} is better on ${list(won(name))}`);
      const level = tested.filter(({ winner }) => !winner).length;
      if (level) parts.push(`they cannot be told apart on ${level === tested.length && level > 1 ? `all ${level} tasks` : plural(level, "task")}`);
      if (tested.length < found.length) parts.push(`${plural(found.length - tested.length, "task")} could not be tested`);
      byId("summary").textContent = found.length ? `${parts.join("; ")}.` : "They share no task.";
    }

    function drawTasks(found) {
      const seeds = (one) => (one.a.seeds.length === one.b.seeds.length ? one.a.seeds.length : `${one.a.seeds.length} / ${one.b.seeds.length}`);
      const difference = (one) => signed(one.difference) + (one.interval ? ` [${one.interval.map(signed).join(", ")}]` : "");
      const headers = ["task", "which is better", "metric", a, b, `${a} − ${b} [95 %]`, "p", "p (Holm)", "queries", "seeds"];
      const rows = found.map((one) => [
        breakable(one.task),
        verdict(one),
        one.a.metric + (one.a.higher ? "" : " (lower is better)"),
        score(one.a.mean),
        score(one.b.mean),
        difference(one),
        one.p === null ? absent : pValue(one.p),
        one.p === null ? absent : pValue(one.adjusted),
        one.a.n_queries,
        seeds(one),
      ]);
      table("tasks", headers, rows, ["metric", "which is better"]);
    }

    function drawCosts([one, other]) {
      const alike = one.hw !== null && one.hw === other.hw;
      const tasksOf = ({ tasks }) => Object.keys(tasks).sort().join();
      const sameTasks = tasksOf(one) === tasksOf(other);
      // Seconds of timed rounds compare with each other only.
      const timed = [one, other].filter(({ of_runs: runs }) => runs !== null);
      const costsOf = (row) => (timed.length === 1 && row.of_runs) || row.costs;
      const measured = data.costs.map((column, place) => ({ ...column, ours: costsOf(one)[place], theirs: costsOf(other)[place] }))
        .filter(({ ours, theirs }) => ours !== null || theirs !== null);
      const ratio = ({ hardware_free: free, ours, theirs }) =>
        sameTasks && (alike || free) && ours !== null && theirs ? `${(ours / theirs).toFixed(2)}×` : absent;
      table("costs-table", ["cost", a, b, `${a} / ${b}`], measured.map((column) =>
        [column.label, cost(column.unit, column.ours), cost(column.unit, column.theirs), ratio(column)]));
      const where = alike ? `Both were run on ${data.hardware[one.hw]}.` : "They were run on different hardware: only sizes have a ratio.";
      const seconds = ["means over seeds", `means over seeds, not by timed rounds, which only ${timed[0]?.name} has`, "means over seeds, those of adapt and predict medians of timed rounds"];
      byId("costs-note").textContent = `Of all tasks that a submission covers; seconds are ${seconds[timed.length]}. ` +
        (sameTasks ? where : "They cover different tasks, so their costs are not compared; the command above does it for those that both have.");
    }

    function drawOnly(payloads, shared) {
      const only = payloads.map((payload) => [payload.name, Object.keys(payload.tasks).filter((task) => !shared.includes(task))]);
      const texts = only.filter(([, tasks]) => tasks.length).map(([name, tasks]) => el("p", {}, `Only ${name} has: ${list(tasks)}.`));
      byId("only").replaceChildren(...texts);
    }

    function draw(payloads) {
      const shared = data.tasks.map(({ name }) => name).filter((task) => payloads.every(({ tasks }) => Object.hasOwn(tasks, task)));
      const found = compareTasks(...payloads, shared);
      byId("heading").replaceChildren(submission(a), " against ", submission(b));
      document.title = `${a} against ${b} on ${data.suite} - kpi-bench`;
      summarise(found);
      drawTasks(found);
      drawOnly(payloads, shared);
      byId("with-tasks").hidden = !shared.length;
      byId("command").textContent = `kpi-bench compare --suite ${[data.suite, a, b].map(quoted).join(" ")}`;
      if (shared.length) drawCosts(payloads);
      byId("permalink").href = permalink(a, b);
      byId("outcome").hidden = false;
      window.kpiDetail.draw(document.querySelectorAll("figure[data-chart]"), payloads);
    }

    byId("names").append(...[...data.names].sort().map((name) => el("option", { value: name })));
    form.elements.a.value = a;
    form.elements.b.value = b;
    // A list of suggestions shows only what fits the text: selected, it is replaced by the first key.
    for (const field of [form.elements.a, form.elements.b]) field.addEventListener("focus", () => field.select());
    byId("swap").addEventListener("click", () => {
      [form.elements.a.value, form.elements.b.value] = [form.elements.b.value, form.elements.a.value];
      if (form.elements.a.value && form.elements.b.value) form.requestSubmit();
    });
    form.hidden = false;

    const wrong = complaint();
    if (wrong) {
      message(wrong, ...suggestions());
      return;
    }
    const url = (name) => `data/${encodeURIComponent(name)}.js`;
    Promise.all([a, b].map((name) => window.kpiBench.load("submission", url(name)))).then(draw, (error) => message(`The scores are missing from this site: ${error.message}.`));
  }
})();
