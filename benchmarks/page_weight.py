"""What the site weighs and how fast its board is, for 10, 1,000 and 10,000 results.

    OMP_NUM_THREADS=1 python -m benchmarks.page_weight --out /tmp/sites --save benchmarks/results/site.json [10 1000 10000]

Results are generated (tests/site_factory.py): submissions of all sorts on the six tasks of one suite. A site is built with ``kpi-bench
leaderboard build`` in a process of its own and read from files by headless Chromium. Bytes are those on disk; a host that compresses
sends less (``gzip``). Times are medians over cold loads, each in a browser context of its own. Latency is from the event of a click or key to
the second animation frame after it: by then the table has been painted.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.workloads import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from site_factory import SUITE, TASKS, Submission, draw, write

SIZES = (10, 1_000, 10_000)
N_QUERIES = 500
LOADS = 5
FLAGS = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-sandbox")  # fmt: skip

WATCH_ROWS = """
    new MutationObserver((_, watch) => {
        if (!document.querySelector("#board tbody tr")) return;
        watch.disconnect();
        requestAnimationFrame(() => requestAnimationFrame(() => { window.firstRow = performance.now(); }));
    }).observe(document, { childList: true, subtree: true });
"""
TIMED = """([selector, kind, value]) => new Promise((resolve) => {
    const one = document.querySelector(selector);
    const start = performance.now();
    if (kind === "click") one.click();
    else { one.value = value; one.dispatchEvent(new Event("input", { bubbles: true })); }
    const handled = performance.now() - start;
    requestAnimationFrame(() => requestAnimationFrame(() => resolve([handled, performance.now() - start])));
})"""


def submissions(n_results: int) -> list[Submission]:
    """So many that their results are ``n_results``; the last one is cut short."""
    chosen: list[Submission] = []
    left = n_results
    for one in draw(n_results):
        if left == 0:
            break
        tasks = one.tasks[:left]
        left -= len(tasks)
        chosen.append(Submission(**{**vars(one), "tasks": tasks}))
    return chosen


def build(results: Path, site: Path) -> dict[str, float]:
    """Build a site with the command line: wall and CPU seconds, peak RSS in MB."""
    command = [sys.executable, "-m", "kpi_bench", "leaderboard", "build", str(results), "--out", str(site)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return {
        "build_wall_s": time.perf_counter() - start,
        "build_cpu_s": usage.ru_utime + usage.ru_stime,
        "build_peak_rss_mb": _megabytes(usage),
    }


def weigh(browser: Browser, site: Path) -> dict[str, float]:
    """Bytes and milliseconds of the board."""
    address = (site / SUITE / "index.html").as_uri()
    first_rows: list[float] = []
    for _ in range(LOADS):
        with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
            page = context.new_page()
            page.add_init_script(WATCH_ROWS)
            page.goto(address, wait_until="commit")
            page.wait_for_function("window.firstRow")
            first_rows.append(page.evaluate("window.firstRow"))
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        asked: list[str] = []
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.add_init_script(WATCH_ROWS)
        page.goto(address, wait_until="commit")
        page.wait_for_function("window.firstRow")
        table = _files(asked)
        page.wait_for_timeout(500)
        found = {
            "first_row_ms": median(first_rows),
            "first_row_slowest_ms": max(first_rows),
            "board_page_bytes": (site / SUITE / "index.html").stat().st_size,
            "table_bytes": _bytes(table),
            "table_gzip_bytes": _gzipped(table),
            "shown_rows": page.locator("#board tbody tr").count(),
            "dom_elements": page.evaluate("document.querySelectorAll('*').length"),
        }
        found |= _latencies(page, "")
        if page.get_by_role("button", name="Show all").count():
            found["show_all_ms"] = _timed(page, "#paging button:last-of-type", "click")[1]
            found["all_dom_elements"] = page.evaluate("document.querySelectorAll('*').length")
            found |= _latencies(page, "all_")
        start = time.perf_counter()
        for figure in page.locator("figure.chart").all():
            figure.scroll_into_view_if_needed()
            page.wait_for_function(
                "one => one.querySelector('svg, .chart-note:not([hidden])')", arg=figure.element_handle()
            )
        found["charts_ms"] = 1e3 * (time.perf_counter() - start)
        charts = _files(asked)
        found |= {"charts_bytes": _bytes(charts), "charts_gzip_bytes": _gzipped(charts)}
    return found


def _latencies(page: Page, prefix: str) -> dict[str, float]:
    """Milliseconds to sort by a number and by name, and to filter; two of each, the slower counts."""
    steps: dict[str, Sequence[tuple[str, str, str]]] = {
        "sort": [('#board thead button[data-key="t:fb15k"]', "click", ""), ('#board thead button[data-key="name"]', "click", "")],
        "filter": [("#filters input[name=q]", "input", "amber"), ("#filters input[name=q]", "input", "")],
    }  # fmt: skip
    found = {}
    for name, of in steps.items():
        timed = [_timed(page, *step) for step in of]
        found[f"{prefix}{name}_script_ms"] = max(handled for handled, _ in timed)
        found[f"{prefix}{name}_painted_ms"] = max(painted for _, painted in timed)
    return found


def _timed(page: Page, selector: str, kind: str, value: str = "") -> tuple[float, float]:
    handled, painted = page.evaluate(TIMED, [selector, kind, value])
    return handled, painted


def _files(addresses: Sequence[str]) -> list[Path]:
    return sorted({Path(unquote(urlsplit(one).path)) for one in addresses if one.startswith("file:")})


def _bytes(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _gzipped(files: Sequence[Path]) -> int:
    return sum(len(gzip.compress(file.read_bytes(), 6)) for file in files)


def _megabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss * 1024 / 1e6


def measure(browser: Browser, folder: Path, n_results: int) -> dict[str, Any]:
    """Generate, build and weigh a site of ``n_results`` results below ``folder``."""
    results, site = folder / f"results-{n_results}", folder / f"site-{n_results}"
    if not results.is_dir():
        chosen = submissions(n_results)
        write(results, chosen, n_queries=N_QUERIES)
    shutil.rmtree(site, ignore_errors=True)
    built = build(results, site)
    files = [file for file in site.rglob("*") if file.is_file()]
    row_data = sorted((site / SUITE / "data").iterdir(), key=lambda file: file.stat().st_size)
    return {
        "results": len(list(results.rglob("*.json"))),
        "submissions": len(row_data),
        "tasks": len(TASKS),
        "queries_a_task": N_QUERIES,
        **built,
        "site_files": len(files),
        "site_bytes": _bytes(files),
        "median_submission_data_bytes": row_data[len(row_data) // 2].stat().st_size,
        **weigh(browser, site),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures, one line a measure and one column a site."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[key, *(_rounded(row.get(key)) for row in rows)] for key in keys]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(text.rjust(w) if i else text.ljust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))) for line in lines)  # fmt: skip


def _rounded(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine(browser: Browser) -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = (line.split(":", 1)[1].strip() for line in cpu.splitlines() if line.startswith("model name"))
    return {
        "cpu": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "chromium": browser.version,
        "load_before": os.getloadavg()[0],
        "environment": {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")},
    }


def main() -> None:
    """Measure the sizes asked for; print a table, and write JSON where ``--save`` says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for results and sites; results in it are used again"
    )
    parser.add_argument("--save", type=Path, help="JSON file")
    options = parser.parse_args()
    chromium = os.environ.get("KPI_BENCH_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        machine = _machine(browser)
        measured = [measure(browser, options.out.resolve(), size) for size in options.sizes]
        browser.close()
    print(table(measured))
    if options.save:
        options.save.write_text(
            json.dumps({"machine_info": machine, "sites": measured}, indent=4) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
