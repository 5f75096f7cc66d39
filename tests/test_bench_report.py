"""Ratios, limits, what is kept and what may be compared, from runs as pytest-benchmark writes them."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpi_bench.bench import checkout
from kpi_bench.bench.machine import HARDWARE, describe, differences, label
from kpi_bench.bench.ratios import judged, rows
from kpi_bench.bench.runs import Aim, BenchRun, Role, save
from kpi_bench.bench.table import comparison, duration, report
from kpi_bench.cli import main
from kpi_bench.errors import BenchError

ROOT = Path(__file__).parents[1]
MACHINE = {
    "hw_id": "0123456789ab", "cpu": "Some CPU (family 1, model 2)", "cores": 4, "ram_gib": 8, "gpu": None, "blas": "openblas 0.3",
    "blas_threads": 1, "torch_blas": "MKL", "torch_threads": 1, "torch_capability": "AVX2", "python": "3.11.7", "numpy": "2.0",
    "torch": "2.9", "packages": {"scipy": "1.15"},
}  # fmt: skip


def entry(
    group: str,
    contender: str,
    seconds: float,
    role: Role = Role.OWN,
    *,
    spread: float = 0.1,
    **info: Any,
) -> dict[str, Any]:
    stats = {
        "min": seconds * (1 - spread),
        "q1": seconds * (1 - spread / 2),
        "median": seconds,
        "q3": seconds * (1 + spread / 2),
        "max": seconds * (1 + spread),
        "rounds": 5,
    }
    return {
        "group": group,
        "fullname": f"benchmarks/bench_{group}.py::test[{contender}]",
        "extra_info": {"contender": contender, "role": role.value, **info},
        "stats": stats,
    }


def stored(path: Path, *entries: dict[str, Any], **machine: Any) -> BenchRun:
    path.write_text(json.dumps({"machine_info": MACHINE | machine, "benchmarks": entries}))
    return BenchRun.read(path)


LIMITS = (
    entry("limits", "gemm", 2.0, Role.LIMIT, flops=200_000),
    entry("limits", "copy", 0.5, Role.LIMIT, bytes=1_000_000),
)


def test_ours_is_held_against_the_fastest_peer_and_the_highest_limit(tmp_path: Path) -> None:
    run = stored(
        tmp_path / "run.json",
        entry("paths", "own-a", 3.0),
        entry("paths", "slow", 9.0, Role.PEER),
        entry("paths", "restated", 6.0, Role.FORM),
        entry("paths", "other", 1.0, Role.PEER, beside=["own-b"]),
        entry("paths", "low", 1.0, Role.LIMIT),
        entry("paths", "high", 2.0, Role.LIMIT),
        entry("elsewhere", "fast", 0.1, Role.PEER),
    )
    own, *others = rows(run)["paths"]
    assert own.peer is not None
    assert own.limit is not None
    assert (own.peer.contender, own.peer.role, own.peer.value) == ("restated", Role.FORM, 0.5)
    assert (own.limit.contender, own.limit.value) == ("high", 1.5)
    assert all(row.peer is None and row.limit is None for row in others)


def test_work_of_different_amounts_is_compared_per_unit(tmp_path: Path) -> None:
    run = stored(
        tmp_path / "run.json",
        entry("sets", "own", 2.0, set_cpu_s=2.0),
        entry("sets", "peer", 1.0, Role.PEER, set_cpu_s=80.0),
    )
    own, peer = rows(run)["sets"]
    assert own.peer is not None
    assert own.peer.value == 2 / 80
    assert (peer.timing.median, peer.timing.unit) == (80.0, "set")
    assert peer.timing.q3 - peer.timing.q1 == pytest.approx(80 * 0.1)
    assert peer.timing.calls == pytest.approx(1 / 80)


@pytest.mark.parametrize(
    ("work", "name", "ratio"),
    [
        # 100,000 FLOP/s and 2 MB/s: a call takes 4 s; its FLOPs alone 1 s, its bytes alone 2 s.
        ({"flops": 100_000}, "gemm", 4.0),
        ({"flops": 100_000, "bytes": 4_000_000}, "copy", 2.0),
        ({"flops": 100_000, "bytes": 1_000_000, "step_cpu_s": 0.4}, "gemm", 4.0),
    ],
)
def test_noted_work_gives_the_limit_where_a_group_has_none(
    tmp_path: Path, work: dict[str, Any], name: str, ratio: float
) -> None:
    run = stored(tmp_path / "run.json", *LIMITS, entry("steps", "own", 4.0, **work))
    (own,) = rows(run)["steps"]
    assert own.limit is not None
    assert own.limit.contender == name
    assert own.limit.value == pytest.approx(ratio)
    bare = stored(tmp_path / "bare.json", entry("steps", "own", 4.0, **work))
    assert rows(bare)["steps"][0].limit is None


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=6), st.floats(1e-6, 1e3))
def test_the_best_peer_is_the_fastest(peers: list[float], own: float) -> None:
    entries = [entry("g", f"p{i}", s, Role.PEER) for i, s in enumerate(peers)]
    run = BenchRun.of({"machine_info": MACHINE, "benchmarks": [entry("g", "own", own), *entries]})
    found = rows(run)["g"][0].peer
    assert found is not None
    assert found.value == pytest.approx(own / min(peers))


def test_the_table_has_every_contender_and_the_aims(tmp_path: Path) -> None:
    aim = {"fast": "own-a", "times": 8.0, "bound": "at least"}
    run = stored(
        tmp_path / "run.json",
        *LIMITS,
        entry("paths", "own-a", 0.003, peak_rss_mb=512.4, users=10_000, hops=3, cpu_s_per_1000_rows=1.0),
        entry("paths", "form-b", 0.015, Role.FORM, aims=[aim], users=10_000, hops=4),
    )
    text = report(run)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "Some CPU" in text.splitlines()[0]
    assert "no GPU" in text.splitlines()[0]
    assert "3 ms" in lines["paths"]
    assert "0.2 form-b (form)" in lines["paths"]
    assert "10 %" in lines["paths"]
    assert "512" in lines["paths"]
    assert "users=10,000" in lines["paths"]
    assert "rows" not in lines["paths"]
    assert "hops=4" in lines["form-b"]
    assert "users" not in lines["form-b"]
    assert "2 MB/s" not in text
    assert "0.002 GB/s" in text
    assert "form-b needs 5.00 times own-a (aim at least 8: NOT reached)" in text
    assert [one.ratio for one in judged(run)] == [5.0]


@pytest.mark.parametrize(
    ("bound", "below", "above"),
    [("at least", False, True), ("at most", True, False), ("about", True, True)],
)
def test_aims(bound: Any, below: bool, above: bool) -> None:
    aim = Aim("own", 2.0, bound)
    assert (aim.reached(1.9), aim.reached(2.1)) == (below, above)
    assert aim.reached(2.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(90.0, "90 s"), (0.0123, "12.3 ms"), (4.5e-5, "45 us"), (3e-8, "30 ns")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- What is kept and what may be compared ----------------------------------------------------------------------------------------------


def test_a_kept_run_replaces_its_groups_and_leaves_the_others(tmp_path: Path) -> None:
    first = stored(tmp_path / "a.json", entry("one", "own-a", 1.0), entry("two", "own-b", 1.0))
    again = stored(tmp_path / "b.json", entry("two", "own-b", 2.0), entry("three", "own-c", 3.0))
    kept = save(first, tmp_path / "results")
    assert kept.name == "some-cpu-4c-1t-0123456789ab.json"
    assert save(again, tmp_path / "results") == kept
    found = BenchRun.read(kept)
    assert {t.contender: t.median for t in found.timings} == {"own-a": 1.0, "own-b": 2.0, "own-c": 3.0}
    assert found.machine == MACHINE


def test_figures_of_other_software_are_not_mixed(tmp_path: Path) -> None:
    save(stored(tmp_path / "a.json", entry("one", "own", 1.0)), tmp_path)
    other = stored(tmp_path / "b.json", entry("two", "own", 1.0), packages={"scipy": "1.16"})
    with pytest.raises(BenchError, match=r"packages.scipy: '1.15' and '1.16'"):
        save(other, tmp_path)


@pytest.mark.parametrize(
    "other",
    [{"hw_id": "ffff"}, {"blas": "MKL"}, {"torch_threads": 2}, {"gpu": {"name": "H200"}}, {"cpu": "Other"}],
)
def test_times_of_two_machines_are_not_compared(tmp_path: Path, other: dict[str, Any]) -> None:
    here = stored(tmp_path / "a.json", entry("one", "own", 1.0))
    there = stored(tmp_path / "b.json", entry("one", "own", 2.0), **other)
    (name,) = other
    with pytest.raises(BenchError, match=rf"different machines \({name}"):
        comparison(here, there)


def test_a_run_that_does_not_name_its_machine_is_not_compared_or_kept(tmp_path: Path) -> None:
    run = stored(tmp_path / "a.json", entry("one", "own", 1.0))
    nameless = BenchRun({"cpu": "Some CPU"}, run.entries, run.timings)
    with pytest.raises(BenchError, match="no hw_id"):
        comparison(run, nameless)
    with pytest.raises(BenchError, match="no hw_id"):
        save(nameless, tmp_path)


def test_times_of_one_machine_are_compared_with_their_spread(tmp_path: Path) -> None:
    then = stored(tmp_path / "a.json", entry("one", "own", 1.0), entry("one", "same", 1.0), entry("one", "gone", 1.0))  # fmt: skip
    now = stored(tmp_path / "b.json", entry("one", "own", 0.5), entry("one", "same", 1.02), torch="2.13")
    text = comparison(now, then)
    own, same = (next(line for line in text.splitlines() if f" {name} " in line) for name in ("own", "same"))
    assert "0.50" in own
    assert "within" not in own
    assert "within the spread" in same
    assert "gone" not in text
    assert "torch: 2.9 then, 2.13 now" in text


def test_the_machine_is_named_without_its_host() -> None:
    machine = describe()
    assert set(HARDWARE) <= set(machine)
    assert platform.node() not in machine.values()
    assert differences(machine, describe()) == {}
    assert label(machine).endswith(machine["hw_id"])
    gpu = machine | {"gpu": {"name": "NVIDIA H200", "memory_gib": 139, "driver": None}}
    assert label(gpu).startswith("nvidia-h200-")
    assert "gpu" in differences(gpu, machine)


# --- The command ------------------------------------------------------------------------------------------------------------------------


def test_a_stored_run_is_shown_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    stored(path, entry("paths", "own", 3.0), entry("paths", "peer", 6.0, Role.PEER))
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    monkeypatch.setattr("kpi_bench.bench.checkout.source_root", lambda: tmp_path)
    assert main(["bench", "--json", str(path), "--save", "--against", str(path)]) == 0
    out = capsys.readouterr().out
    assert "0.5 peer" in out
    assert "within the spread" in out
    assert list((tmp_path / "benchmarks" / "results").iterdir())


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"machine_info": {}, "benchmarks": [{}]}', '{"machine_info": {}, "benchmarks": 3}'],
)
def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    assert main(["bench", "--json", str(path)]) == 2
    assert "no JSON of these benchmarks" in capsys.readouterr().err


def test_a_missing_file_and_two_ways_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--json", str(tmp_path / "none.json")]) == 2
    assert "none.json: cannot be read" in capsys.readouterr().err
    assert main(["bench", "limits", "--json", "x.json"]) == 2


def test_an_installation_without_a_checkout_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        checkout, "__file__", str(tmp_path / "site-packages" / "kpi_bench" / "bench" / "checkout.py")
    )
    assert main(["bench"]) == 2
    assert "Clone the repository" in capsys.readouterr().err


@pytest.mark.slow
def test_limits_are_measured_and_an_unknown_group_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "limits"]) == 0
    out = capfd.readouterr().out
    assert "GFLOP/s" in out
    assert "GB/s" in out
    assert main(["bench", "no-such-path"]) == 2
    said = capfd.readouterr()
    assert "no hot path no-such-path; there are" in said.out + said.err


WRONG = """
import pytest

@pytest.mark.benchmark(group="wrong")
@pytest.mark.parametrize("name", ["own-right", "own-wrong", "unheard-of"])
def test_it(measure, name):
    assert measure("x", name, lambda: 1.0, rounds=2, memory=False) == (2.0 if name == "own-wrong" else 1.0)
"""


@pytest.mark.slow
def test_contenders_with_wrong_results_or_no_role_are_not_reported(tmp_path: Path) -> None:
    bench, target = tmp_path / "bench_wrong.py", tmp_path / "run.json"
    bench.write_text(WRONG)
    command = [
        sys.executable, "-m", "pytest", "-p", "benchmarks.conftest", str(bench), "--benchmark-enable", f"--benchmark-json={target}",
    ]  # fmt: skip
    # Where pytest-xdist runs this test, its variables would switch the benchmarks off.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200, env=environment)  # fmt: skip
    assert done.returncode == 1
    assert "benchmarks/roles.py does not say" in done.stdout
    run = BenchRun.read(target)
    assert [timing.contender for timing in run.timings] == ["own-right"]
    assert not math.isnan(run.timings[0].q1)
    assert differences(run.machine, describe(), ("cpu", "cores")) == {}
