"""The board: shared ranks, aggregates that show their gaps, costs compared on equal terms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from result_factory import SUITE, TASKS, Maker

from kpi_bench.evaluators.aggregation import SharedRank
from kpi_bench.leaderboard.load import load_results
from kpi_bench.leaderboard.tables import BoardTable, board


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "results")


def _board(maker: Maker) -> BoardTable:
    return board(load_results(maker.root), SUITE)


def test_separable_rows_have_their_own_ranks(maker: Maker) -> None:
    for name, quality in (("low", 0.2), ("mid", 0.5), ("high", 0.8)):
        maker.submission(name, quality)
    table = _board(maker)
    assert [row.name for row in table.rows] == ["high", "mid", "low"]
    for place, row in enumerate(table.rows, start=1):
        assert {cell.rank for cell in row.cells.values()} == {SharedRank(place, False)}
        assert row.mean_rank == place
    assert [row.borda for row in table.rows] == [1.0, 0.5, 0.0]


def test_rows_that_the_test_cannot_separate_share_a_rank(maker: Maker) -> None:
    maker.submission("one", 0.5, noise=1)
    maker.submission("two", 0.5, noise=2)
    maker.submission("top", 0.9)
    table = _board(maker)
    for task in TASKS:
        assert table.row("top").cells[task].rank == SharedRank(1, False)
        assert table.row("one").cells[task].rank == SharedRank(2, True)
        assert table.row("two").cells[task].rank == SharedRank(2, True)


def test_lower_is_better_metrics_rank_the_other_way(maker: Maker) -> None:
    maker.result("good", "fb15k", 0.8)
    maker.result("bad", "fb15k", 0.2)
    table = _board(maker)
    assert table.tasks[0].higher_is_better is False
    assert table.row("good").cells["fb15k"].rank == SharedRank(1, False)
    assert table.row("good").cells["fb15k"].main.mean < table.row("bad").cells["fb15k"].main.mean


def test_missing_task_gives_no_aggregate_and_shows_coverage(maker: Maker) -> None:
    maker.submission("whole", 0.3)
    maker.submission("partial", 0.9, tasks=TASKS[:-1])
    table = _board(maker)
    partial = table.row("partial")
    assert (partial.mean_rank, partial.borda, partial.covered) == (None, None, len(TASKS) - 1)
    assert table.row("whole").mean_rank == 1.0, "a row with a gap is no opponent"
    assert [row.name for row in table.rows] == ["whole", "partial"], "complete rows come first"


def test_a_task_that_nobody_ran_is_missing_for_all(maker: Maker) -> None:
    wide = Maker(maker.root, n_tasks=len(TASKS) + 1)
    wide.submission("one", 0.3)
    row = _board(wide).rows[0]
    assert (row.mean_rank, row.covered) == (None, len(TASKS))


def test_without_queries_there_is_a_score_but_no_rank(maker: Maker) -> None:
    maker.result("tested", TASKS[0], 0.4)
    maker.result("untested", TASKS[0], 0.9, with_queries=False)
    table = _board(maker)
    assert table.row("untested").cells[TASKS[0]].rank is None
    assert table.row("tested").cells[TASKS[0]].rank == SharedRank(1, False)
    assert any("no rank, for untested" in note for note in table.notes)


def test_results_on_other_queries_are_left_out(maker: Maker) -> None:
    for name in ("one", "two"):
        maker.result(name, TASKS[0], 0.4)
    maker.result("elsewhere", TASKS[0], 0.4, queries=np.arange(1000, 1000 + maker.n_queries))
    table = _board(maker)
    assert {row.name for row in table.rows} == {"one", "two"}
    assert any("other queries" in note for note in table.notes)


def test_costs_add_up(maker: Maker) -> None:
    maker.submission("one", 0.5, pretrain_s=60.0, adapt_s=10.0)
    costs = _board(maker).rows[0].costs
    n = len(TASKS)
    assert costs.pretrain_s == 60.0
    assert costs.adapt_predict_s == pytest.approx(n * 11.0)
    assert costs.amortised_s == pytest.approx(60.0 / n + 10.0)
    assert costs.cpu_s == pytest.approx(2 * (60.0 + n * 11.0))
    assert (costs.gpu_s, costs.peak_device) == (None, None)
    assert (costs.peak_rss, costs.parameters, costs.serving_bytes) == (500_000_000, 1_234_567, 5_000_000)
    assert costs.queries_per_s == pytest.approx(1000.0)


def test_kept_parameters_are_ranked_on_any_hardware(maker: Maker) -> None:
    maker.submission("whole", 0.5)
    maker.submission("pruned", 0.5, kept=1_000, hw_id="hw-two")
    maker.submission("older", 0.5, kept=None)
    table = _board(maker)
    kept = {row.name: (row.costs.kept, row.cost_ranks.get("kept")) for row in table.rows}
    assert kept == {
        "whole": (1_234_567, SharedRank(2, False)),
        "pruned": (1_000, SharedRank(1, False)),
        "older": (None, None),
    }


def test_costs_without_pretraining(maker: Maker) -> None:
    maker.submission("plain", 0.5, pretrain_s=None)
    costs = _board(maker).rows[0].costs
    assert costs.pretrain_s is None
    assert costs.amortised_s == pytest.approx(10.0)


def test_costs_are_ranked_within_one_hardware(maker: Maker) -> None:
    maker.submission("slow", 0.5, adapt_s=20.0)
    maker.submission("fast", 0.6, adapt_s=5.0)
    maker.submission("elsewhere", 0.7, adapt_s=1.0, hw_id="hw-two")
    table = _board(maker)
    assert table.hw_id == "hw-one"
    ranks = {row.name: row.cost_ranks["adapt_predict_s"].rank for row in table.rows}
    assert ranks == {"slow": 2, "fast": 1, "elsewhere": 1}
    assert table.row("elsewhere").cost_ranks["parameters"] == SharedRank(1, True), "sizes need no hardware"


def test_mixed_hardware_and_gaps_are_not_ranked(maker: Maker) -> None:
    maker.submission("whole", 0.5)
    maker.submission("gap", 0.5, tasks=TASKS[:2])
    maker.submission("moved", 0.5, tasks=TASKS[:2])
    maker.submission("moved", 0.5, tasks=TASKS[2:], hw_id="hw-two")
    table = _board(maker)
    assert table.row("moved").hw_id is None
    assert not table.row("moved").cost_ranks
    assert not table.row("gap").cost_ranks
    assert table.row("whole").cost_ranks


def test_flags_and_labels(maker: Maker) -> None:
    maker.submission("a", 0.5, seeds=(7,), tags=("floor",), fidelity="reconstruction", flags=("verified",))
    maker.submission("b", 0.5, tasks=TASKS[:1], flags=("verified", "resumed"))
    maker.submission("b", 0.5, tasks=TASKS[1:])
    table = _board(maker)
    a, b = table.row("a"), table.row("b")
    assert a.flags == ("single_seed", "verified")
    assert (a.floor, a.fidelity, a.n_seeds, a.size) == (True, "reconstruction", (1, 1), "small")
    assert b.flags == ("resumed",), "verified only when every task is"


def test_mixed_code_is_noted(maker: Maker) -> None:
    maker.submission("a", 0.5, tasks=TASKS[:2])
    maker.submission("a", 0.5, tasks=TASKS[2:], code="d" * 64, size="base")
    notes = _board(maker).notes
    assert any("different code" in note for note in notes)
    assert any("different size" in note for note in notes)


def test_variants_and_slices_are_carried(maker: Maker) -> None:
    maker.submission("a", 0.5)
    result = _board(maker).rows[0].cells[TASKS[0]].result
    assert "dedup" in result.variants
    assert "cold" in result.slices
