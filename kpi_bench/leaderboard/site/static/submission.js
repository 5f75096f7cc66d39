/* Figures of the pages about one submission or two: learning curves, slices and seconds by phase, with a choice of task.

   kpiDetail.draw(figures, payloads)   draw each figure[data-chart] for one or two submission payloads; again for others

   On a submission's page (script has data-payload) it loads the data itself, when the first figure comes near the viewport: the file
   holds resamples for comparisons too. Everything else on that page is in its HTML. */
(function () {
  "use strict";

  const script = document.currentScript;

  function fill(select, names) {
    const kept = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(kept)) select.value = kept;
    select.closest(".field").hidden = names.length < 2;
  }

  /* The tasks of which some payload has what the figure shows, in a select; the families of slices of the chosen one in another. */
  function wire(figure, payloads, has, draw) {
    const toolbar = figure.querySelector(".toolbar");
    const task = figure.querySelector("[data-control=task]");
    const family = figure.querySelector("[data-control=family]");
    const all = payloads.flatMap(({ tasks }) => Object.keys(tasks).filter((name) => has(tasks[name])));
    const show = () => draw(figure, payloads, task.value, family?.value);
    const choose = () => {
      if (family) fill(family, window.kpiCharts.families(payloads, task.value));
      toolbar.hidden = ![...toolbar.children].some((field) => !field.hidden);
      show();
    };
    fill(task, [...new Set(all)]);
    task.onchange = choose;
    if (family) family.onchange = show;
    figure.hidden = all.length === 0;
    if (all.length) choose();
  }

  const charts = {
    phases: (figure, payloads) => window.kpiCharts.phases(figure, payloads),
    pair: (figure, payloads) => window.kpiCharts.pair(figure, ...payloads),
    curves: (figure, payloads) =>
      wire(figure, payloads, (task) => task.curves.some((curve) => curve.length), window.kpiCharts.curves),
    slices: (figure, payloads) => wire(figure, payloads, (task) => task.slices.length, window.kpiCharts.slices),
  };

  function draw(figures, payloads) {
    for (const figure of figures) charts[figure.dataset.chart](figure, payloads);
  }

  function failed(figures, url) {
    for (const figure of figures) {
      const note = document.createElement("p");
      note.className = "chart-note muted";
      note.textContent = `The data of the chart could not be loaded (${url}).`;
      figure.append(note);
    }
  }

  function watch(figures, url) {
    const observer = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        observer.disconnect();
        window.kpiBench
          .load("submission", url)
          .then((payload) => draw(figures, [payload]))
          .catch(() => failed(figures, url));
      },
      { rootMargin: "400px" },
    );
    figures.forEach((figure) => observer.observe(figure));
  }

  /* A link to a task opens its details. */
  function open() {
    const target = document.getElementById(location.hash.slice(1));
    if (!(target instanceof HTMLDetailsElement) || target.open) return;
    target.open = true;
    target.scrollIntoView();
  }

  window.kpiDetail = { draw };
  if (script.dataset.payload) {
    watch([...document.querySelectorAll("figure[data-chart]")], script.dataset.payload);
    window.addEventListener("hashchange", open);
    open();
  }
})();
