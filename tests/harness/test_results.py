"""Result files: strict when read, whole when written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kpi_bench.errors import ResultError
from kpi_bench.harness.results import (
    CurvePoint,
    HarnessVersion,
    Memory,
    MetricSummary,
    PhaseTiming,
    PredictionsInfo,
    ProtocolInfo,
    Result,
    Size,
    SubmissionInfo,
    SuiteInfo,
    TaskInfo,
    Timing,
    VariantScores,
    queries_path,
    read_result,
    result_path,
    write_result,
)


def summary(mean: float = 0.5) -> MetricSummary:
    return MetricSummary(mean, (mean, mean), (0.4, 0.6), None, True, 10, 0)


@pytest.fixture
def result() -> Result:
    return Result(
        run_id="r1",
        created="2026-01-01T00:00:00+00:00",
        kpi_bench=HarnessVersion("0", None),
        submission=SubmissionInfo(
            "mine", "1", "code", "", "", "", "a" * 64, {"width": 3, "names": ["a"]}, None, "small", ("kg",), "faithful", ""
        ),
        suite=SuiteInfo("tiny", "1", "b" * 64),
        task=TaskInfo("music", "recommendation", "ndcg@20", 4),
        protocol=ProtocolInfo("ties", ("train",), (5, 20), None),
        seeds=(0, 1),
        metrics={"ndcg@20": summary(), "mrr": summary(0.25)},
        variants={"mudok": VariantScores({"ndcg@20": summary(0.75)})},
        slices={"cold": {"ndcg@20": 0.1}},
        counts={"n_queries": 10.0},
        floors={"ndcg@20": 0.01},
        timing=Timing(
            {"adapt": PhaseTiming((1.0, 2.0), (0.5, 0.5))}, ((CurvePoint(0.5, 1, 0.2, "valid", "adapt"),), ()), (10.0, 9.0), (0.1, 0.1)
        ),
        memory=Memory((1000, 2000)),
        size=Size(10, 5, None),
        hardware={"cpu": "x", "hw_id": "h"},
        environment={"python": "3.11"},
        notes={"epoch": (3, None)},
        predictions=PredictionsInfo("predictions/music", {"seed0.parquet": "c" * 64}),
        queries_sha256=None,
    )  # fmt: skip


def test_round_trip(result: Result, tmp_path: Path) -> None:
    path = write_result(tmp_path, result)
    assert path == result_path(tmp_path, "tiny", "music", "mine") == tmp_path / "tiny/music/mine.json"
    read = read_result(path)
    assert read == result
    assert read.main == summary()
    assert read.key == "tiny/music/mine"
    assert queries_path(path) == tmp_path / "tiny/music/mine.queries.parquet"


def test_a_result_from_before_kept_parameters_were_counted(result: Result, tmp_path: Path) -> None:
    path = write_result(tmp_path, result)
    raw = json.loads(path.read_text())
    del raw["size"]["kept"]
    path.write_text(json.dumps(raw))
    assert read_result(path).size == Size(10, 5, None, kept=None)


def test_numbers_are_not_rounded(result: Result, tmp_path: Path) -> None:
    exact = dataclasses.replace(result, metrics={"ndcg@20": summary(1 / 3)})
    assert read_result(write_result(tmp_path, exact)).main.mean == 1 / 3


def drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        del raw[keys[-1]]

    return change


def put(value: object, *keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(raw: Any) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        raw[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(1, "surprise"), r"unknown key\(s\) surprise; allowed are run_id"),
        (put(1, "suite", "colour"), r"\.suite: unknown key\(s\) colour"),
        (drop("run_id"), r"missing key\(s\) run_id"),
        (drop("timing", "curves"), r"\.timing: missing key\(s\) curves"),
        (put("2", "seeds", 1), r"\.seeds\[1\]: expected int, found str '2'"),
        (put(True, "seeds", 1), r"\.seeds\[1\]: expected int, found bool"),
        (put(float("nan"), "metrics", "mrr", "mean"), r"cannot be read as JSON: NaN is no JSON number"),
        (put(float("inf"), "slices", "cold", "ndcg@20"), r"cannot be read as JSON: Infinity is no"),
        (put([0.5], "metrics", "mrr", "per_seed"), r"metrics\.mrr\.per_seed has 1 values for 2 seeds"),
        (put([0.5], "variants", "mudok", "metrics", "ndcg@20", "per_seed"), r"variants\.mudok\.metrics\.ndcg@20\.per_seed has 1"),
        (put([0.1, 0.2, 0.3], "metrics", "mrr", "ci95_seeds"), r"ci95_seeds: expected 2 values, found 3"),
        (drop("metrics", "ndcg@20"), r"metrics lack the main metric 'ndcg@20'"),
        (put(2, "schema_version"), r"schema_version is 2; this version of kpi-bench reads 1"),
        (drop("schema_version"), r"schema_version is None"),
        (put("yours", "submission", "name"), r"its content belongs at \.\.\./tiny/music/yours\.json"),
        (put("other", "suite", "name"), r"its content belongs at \.\.\./other/music/mine\.json"),
        (put("ny", "suite", "name"), r"its content belongs at \.\.\./ny/music/mine\.json"),
    ],
)  # fmt: skip
def test_faults_are_named(
    result: Result, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = write_result(tmp_path, result)
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ResultError, match=message) as caught:
        read_result(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"text"'])
def test_no_result_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ResultError, match=r"cannot be read as JSON|schema_version is None"):
        read_result(tmp_path / "x.json")
    with pytest.raises(ResultError, match="cannot be read as JSON"):
        read_result(tmp_path / "absent.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_not_written(result: Result, tmp_path: Path, value: float) -> None:
    path = write_result(tmp_path, result)
    before = path.read_bytes()
    for broken in (
        dataclasses.replace(result, metrics={"ndcg@20": summary(value)}),
        dataclasses.replace(result, notes={"loss": (value, value)}),
    ):
        with pytest.raises(ResultError, match="not finite"):
            write_result(tmp_path, broken)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["mine.json"]
