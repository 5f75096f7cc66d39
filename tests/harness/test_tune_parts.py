"""The parts of a search by themselves: space, view, objective, pruning, drawing, what is written."""

from __future__ import annotations

import math
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_bench._io import sha256_file
from kpi_bench.errors import RunError, SubmissionError, SuiteError
from kpi_bench.evaluators.link_prediction import LinkPredictionIndex
from kpi_bench.harness.scoring import make_scorer
from kpi_bench.harness.tuning.curves import CurveKey
from kpi_bench.harness.tuning.objective import Objective, make_objective
from kpi_bench.harness.tuning.pruning import MIN_TRIALS, MedianRule
from kpi_bench.harness.tuning.record import (
    SEARCH,
    Ended,
    Plan,
    Trial,
    best_toml,
    make_search,
    read_search,
    render_search,
    write_search,
)
from kpi_bench.harness.tuning.space import Kind, Parameter, read_space, space_sha256
from kpi_bench.harness.tuning.study import Trials
from kpi_bench.harness.tuning.view import valid_view
from kpi_bench.harness.withhold import withheld_copy
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import LinkPredictionTask, RecommendationTask

PARAMS: dict[str, Any] = {"lr": 0.01, "layers": 2, "encoder": "hashed", "tune": False, "sizes": [8, 8]}


def space_of(tmp_path: Path, text: str) -> dict[str, Parameter]:
    (tmp_path / "space.toml").write_text(text)
    return read_space(tmp_path / "space.toml", PARAMS)


def test_a_space_is_read(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        """
        lr = { type = "float", low = 1e-4, high = 1, log = true }
        layers = { type = "int", low = 1, high = 7, step = 2 }
        encoder = { type = "categorical", choices = ["hashed", "bert"] }
        sizes = { type = "categorical", choices = [[8, 8], [16]] }
        """,
    )
    assert space["lr"] == Parameter(Kind.FLOAT, 1e-4, 1.0, log=True)
    assert isinstance(space["lr"].high, float)
    assert [value for value in range(10) if space["layers"].holds(value)] == [1, 3, 5, 7]
    assert space["sizes"].holds([16])
    assert not space["sizes"].holds([8])
    assert not space["lr"].holds(0.0)
    turned = dict(reversed(space.items()))
    assert space_sha256(turned) == space_sha256(space)
    assert space_sha256({**space, "layers": Parameter(Kind.INT, 1, 7)}) != space_sha256(space)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            'depth = { type = "int", low = 1, high = 2 }',
            "depth: no such parameter; [params] declares lr, layers",
        ),
        ('layers = { type = "float", low = 1.0, high = 2.0 }', "the parameter is int"),
        ('lr = { type = "int", low = 1, high = 2 }', "the parameter is float"),
        ('tune = { type = "int", low = 0, high = 1 }', "the parameter is bool"),
        ('layers = { type = "int", low = 1.5, high = 2 }', "whole numbers"),
        ('layers = { type = "int", low = 1, high = 9007199254740993 }', "up to 9007199254740992 only"),
        ('layers = { type = "int", low = 2, high = 2 }', "must be below high"),
        ('lr = { type = "float", low = 0.0, high = 1.0, log = true }', "low above 0"),
        ('lr = { type = "float", low = 0.1, high = 1.0, log = true, step = 0.1 }', "no step"),
        ('lr = { type = "float", low = 0.0, high = 1.0, step = 0.3 }', "whole number of steps"),
        ('lr = { type = "float", low = 0.0, high = inf }', "finite"),
        ('lr = { type = "float", low = 0.0 }', "takes low and high"),
        ('lr = { type = "float", low = 0.0, high = 1.0, choices = [1.0] }', "no choices"),
        ('encoder = { type = "categorical", choices = ["a"] }', "two or more different"),
        ('encoder = { type = "categorical", choices = ["a", "a"] }', "two or more different"),
        ('encoder = { type = "categorical", choices = ["a", 1] }', "choice 1 is int"),
        ('tune = { type = "categorical", choices = [true, 1] }', "choice 1 is int"),
        ('encoder = { type = "categorical", choices = ["a", "b"], low = 1 }', "choices only"),
        ('lr = { type = "categorical", choices = [1, 1.0] }', "two or more different"),
        ('lr = { type = "categorical", choices = [0.1, inf] }', "choice inf cannot be stored"),
        ('sizes = { type = "categorical", choices = [[1], [2020-01-01]] }', "cannot be stored"),
        ('lr = { type = "float", low = 1.0, high = 1e31, step = 7e-7 }', "whole number of steps"),
        ('lr = { type = "normal", low = 0.0, high = 1.0 }', "none of int, float, categorical"),
        ('lr = { type = "float", low = 0.0, hi = 1.0 }', "unknown key"),
        ("lr = 3", "expected an object"),
        ("", "no parameter to search"),
        ("lr = ", "not valid TOML"),
    ],
)
def test_a_wrong_space_is_refused(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(SubmissionError, match=r"space\.toml") as refused:
        space_of(tmp_path, table)
    assert said in str(refused.value)


def test_whole_numbers_are_floats_where_the_parameter_is_one(tmp_path: Path) -> None:
    space = space_of(tmp_path, 'lr = { type = "categorical", choices = [1, 0.5] }')
    assert [type(choice) for choice in space["lr"].choices] == [float, float]
    (tmp_path / "space.toml").write_text('lr = { type = "float", low = 1, high = 3, step = 1 }')
    space = read_space(tmp_path / "space.toml", {"lr": 2.0})
    assert space["lr"] == Parameter(Kind.FLOAT, 1.0, 3.0, step=1.0)
    (tmp_path / "space.toml").write_text(f'lr = {{ type = "float", low = 1, high = 1{"0" * 400} }}')
    with pytest.raises(SubmissionError, match=r"lr: a number is too large for a float"):
        read_space(tmp_path / "space.toml", {"lr": 2.0})


def test_a_missing_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="cannot be read"):
        read_space(tmp_path / "none.toml", PARAMS)


# ---------------------------------------------------------------------------------------------------------------- view


@pytest.fixture(scope="module")
def view(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return valid_view(tiny_suite, tmp_path_factory.mktemp("views"))


def test_the_view_asks_for_valid_and_holds_no_test_file(tiny_suite: Suite, view: Suite) -> None:
    hidden = {sha256_file(path) for path in tiny_suite.folder.glob("tasks/*/test.parquet")}
    assert len(hidden) == len(tiny_suite.task_names())
    assert hidden.isdisjoint(sha256_file(path) for path in view.folder.rglob("*.parquet"))
    for name in tiny_suite.task_names():
        real, seen = tiny_suite.task(name), view.task(name)
        assert seen.test is not None
        for column, values in vars(real.valid).items():
            assert np.array_equal(vars(seen.test)[column], values)
        assert len(seen.train) == len(real.train)
        assert seen.spec.variants == ()
    assert view.name == "tiny-on-valid"
    assert view.manifest.digest != tiny_suite.manifest.digest


def test_the_view_masks_train_alone(tiny_suite: Suite, view: Suite) -> None:
    task = view.task("shop_music")
    assert isinstance(task, RecommendationTask)
    assert task.spec.mask == ("train",)
    scorer = make_scorer(task, view.graph)
    assert scorer.protocol.mask == ("train",)


def test_the_view_filters_with_train_and_valid(tiny_suite: Suite, view: Suite) -> None:
    real, seen = tiny_suite.task("library_links"), view.task("library_links")
    assert isinstance(real, LinkPredictionTask)
    assert isinstance(seen, LinkPredictionTask)
    sizes = (real.n_entities, real.n_relations)
    assert real.test is not None
    assert seen.test is not None
    twin = LinkPredictionIndex.build(
        real.train.array(), real.valid.array(), real.test.array(), *sizes, split="valid"
    )
    asked = LinkPredictionIndex.build(
        seen.train.array(), seen.valid.array(), seen.test.array(), *sizes, split="test"
    )
    for one, other in ((twin.filters, asked.filters), (twin.positives, asked.positives)):
        assert np.array_equal(one.row_ids(), other.row_ids())
        assert np.array_equal(one.indices, other.indices)


def test_the_view_needs_no_test_file_and_does_not_depend_on_one(
    tiny_suite: Suite, view: Suite, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_suite.folder, bare)
    for path in bare.glob("tasks/*/test.parquet"):
        path.unlink()
    again = valid_view(open_suite(bare), tmp_path)
    assert again.manifest == view.manifest
    copy = withheld_copy(again, tmp_path / "withheld")
    assert list(copy.glob("tasks/*/test.parquet")) == []


def test_a_damaged_suite_is_refused_and_a_damaged_view_made_anew(tiny_suite: Suite, tmp_path: Path) -> None:
    view = valid_view(tiny_suite, tmp_path)
    target = view.folder / "tasks" / "shop_music" / "test.parquet"
    good = target.read_bytes()
    target.write_bytes(good[:-1])
    assert valid_view(tiny_suite, tmp_path).folder == view.folder
    assert target.read_bytes() == good
    broken = tmp_path / "broken"
    shutil.copytree(tiny_suite.folder, broken)
    (broken / "tasks" / "shop_music" / "valid.parquet").write_bytes(good + b"x")
    with pytest.raises(SuiteError, match=r"shop_music.valid\.parquet: its SHA-256 differs"):
        valid_view(open_suite(broken), tmp_path / "other")
    (broken / "kgs" / "shop" / "triples.parquet").unlink()
    with pytest.raises(SuiteError, match="is missing"):
        valid_view(open_suite(broken), tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


# ----------------------------------------------------------------------------------------------------------- objective


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0.001, 1.0)), min_size=2, max_size=6),
    st.floats(0.01, 100.0),
)
def test_scaling_a_task_does_not_change_the_order(pairs: list[tuple[float, float]], factor: float) -> None:
    tasks = tuple(f"t{i}" for i in range(len(pairs)))
    objective = Objective("geometric mean", True, tasks)
    one, other = (dict(zip(tasks, side, strict=True)) for side in zip(*pairs, strict=True))
    ratio = objective.value(one) / objective.value(other)
    scaled = [{**values, "t0": values["t0"] * factor} for values in (one, other)]
    assert objective.value(scaled[0]) / objective.value(scaled[1]) == pytest.approx(ratio)
    assert objective.value(one) == pytest.approx(math.prod(one.values()) ** (1 / len(one)))


def test_objectives(tiny_suite: Suite) -> None:
    one = make_objective(tiny_suite, ["library_links"])
    assert (one.description, one.higher_is_better, one.value({"library_links": 0.0})) == ("mrr", True, 0.0)
    both = make_objective(tiny_suite, ["library_links", "shop_music"])
    assert both.description == "geometric mean of library_links mrr, shop_music ndcg@20"
    assert both.value({"library_links": 0.0, "shop_music": 0.9}) == 0.0
    worse = Objective("mae", False, ("t",))
    assert worse.better(0.1, 0.2)
    assert not worse.better(0.2, 0.2)


def test_a_metric_without_a_place_in_the_mean_is_refused(tiny_suite: Suite) -> None:
    import dataclasses

    specs = [
        dataclasses.replace(spec, main_metric="mae") if spec.name == "library_review" else spec
        for spec in tiny_suite.manifest.tasks
    ]
    suite = dataclasses.replace(
        tiny_suite, manifest=dataclasses.replace(tiny_suite.manifest, tasks=tuple(specs))
    )
    assert not make_objective(suite, ["library_review"]).higher_is_better
    with pytest.raises(RunError, match=r"library_review: mae .* tune it alone with --tasks library_review"):
        make_objective(suite, ["library_review", "shop_music"])


# ------------------------------------------------------------------------------------------------------------- pruning


def key(metric: str = "accuracy", task: str = "t", seed: int = 0) -> CurveKey:
    return CurveKey(task, seed, metric)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=9),
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.sampled_from(["accuracy", "mae"]),
)
def test_the_rule_for_one_run_is_that_of_optuna(
    finished: list[list[int]], current: list[int], metric: str
) -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=MIN_TRIALS, n_min_trials=MIN_TRIALS)
    study = optuna.create_study(direction="maximize" if metric == "accuracy" else "minimize")
    for curve in finished:
        study.add_trial(
            optuna.trial.create_trial(
                value=0.0, intermediate_values={i: float(v) for i, v in enumerate(curve)}
            )
        )
    rule = MedianRule([{key(metric): {i: float(v) for i, v in enumerate(curve)}} for curve in finished])
    running = {i: float(v) for i, v in enumerate(current)}
    trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=running)
    assert rule.behind({}, {key(metric): running}) == pruner.prune(study, trial)


def test_curves_of_unknown_direction_and_other_runs_say_nothing() -> None:
    rule = MedianRule([{key("loss"): {1: 0.5}, key("accuracy"): {1: 0.5}}] * MIN_TRIALS)
    assert not rule.behind({}, {key("loss"): {1: 0.1}})
    assert not rule.behind({}, {key(task="other"): {1: 0.1}})
    assert not rule.behind({}, {key(seed=1): {1: 0.1}})
    assert not rule.behind({}, {key(): {2: 0.1}})
    assert rule.behind({}, {key(): {1: 0.4}})


@pytest.mark.parametrize("name", ["valid_ndcg@20", "student: valid_mrr", "teacher: mrr"])
def test_the_names_that_baselines_give_their_curves_are_understood(name: str) -> None:
    rule = MedianRule([{key(name): {1: 0.5}}] * MIN_TRIALS)
    assert rule.behind({}, {key(name): {1: 0.4}})
    assert not rule.behind({}, {key(name): {1: 0.6}})


def test_several_runs_count_together() -> None:
    first, second = key(task="a"), key(task="b")
    rule = MedianRule(
        [{first: {1: 0.1, 2: 0.2 + i / 1e4}, second: {1: 0.1, 9: 0.5}} for i in range(MIN_TRIALS)]
    )
    # Twice as good in the run that is done makes up for a running one a little behind, not for one at a third.
    assert not rule.behind({first: {1: 0.4}}, {second: {1: 0.06}})
    assert rule.behind({first: {1: 0.4}}, {second: {1: 0.03}})
    assert rule.behind({}, {second: {1: 0.06}})
    # Kappa can be negative and has no logarithm.
    assert not rule.behind({first: {1: 0.01}}, {key("quadratic_kappa"): {1: -1.0}})


# ------------------------------------------------------------------------------------------------------------- drawing


def plan_of(space: dict[str, Parameter], params: dict[str, Any], **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "submission": "s", "config": None, "source_sha256": "c" * 64, "params": params, "space": space, "suite": "tiny",
        "view_sha256": "d" * 64, "tasks": ("t",), "seeds": (0,), "seed": 0, "device": "cpu", "pruned_by": "median",
        "objective": "accuracy", "higher_is_better": True,
    }  # fmt: skip
    return Plan(**{**fields, **changes})


BOWL = {
    "x": Parameter(Kind.FLOAT, 0.0, 1.0),
    "n": Parameter(Kind.INT, 1, 64, log=True),
    "mode": Parameter(Kind.CATEGORICAL, choices=("a", "b", "c")),
}
START = {"x": 0.9, "n": 60, "mode": "a"}


def bowl(params: dict[str, Any]) -> float:
    """A function whose maximum, 0, is at x = 0.3, n = 8, mode = b."""
    return -abs(params["x"] - 0.3) - abs(math.log2(params["n"] / 8)) / 3 - (params["mode"] != "b")


def draw(trials: Trials, n: int) -> list[dict[str, Any]]:
    drawn = []
    for _ in range(n):
        begun = trials.begin()
        assert begun is not None
        number, params = begun
        value = bowl(params)
        ended = Ended.FAILED if params["n"] == 1 else Ended.PRUNED if value < -2 else Ended.FINISHED
        found = value if ended is Ended.FINISHED else None
        trials.end(Trial(number, ended, params, found, {}, 0.0), {})
        drawn.append(params)
    return drawn


def test_a_planted_optimum_is_found(tmp_path: Path) -> None:
    trials = Trials(tmp_path, plan_of(BOWL, START))
    drawn = draw(trials, 30)
    assert drawn[0] == START
    best = max(drawn, key=bowl)
    assert best["mode"] == "b"
    assert bowl(best) > -0.3
    # Later trials are better than the random ones that begin.
    assert (
        np.median([bowl(params) for params in drawn[20:]]) > np.median([bowl(p) for p in drawn[1:11]]) + 0.3
    )
    search = make_search(trials.plan, "e" * 64, "5", trials.ended())
    assert search.best_trial is not None
    assert search.best_trial.params == best


def test_a_seed_draws_the_same_trials_however_often_it_is_interrupted(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    straight = draw(Trials(tmp_path / "a", plan_of(BOWL, START)), 12)
    stumbling = []
    while len(stumbling) < 12:
        trials = Trials(tmp_path / "b", plan_of(BOWL, START))
        # Begun and left, as by a session that is killed.
        begun = trials.begin()
        assert begun is not None
        assert begun[0] == len(stumbling)
        del trials
        stumbling += draw(Trials(tmp_path / "b", plan_of(BOWL, START)), 1)
        assert stumbling[-1] == begun[1]
    assert stumbling == straight
    other = draw(Trials(tmp_path / "c", plan_of(BOWL, START, seed=1)), 3)
    assert other[0] == START
    assert other[1:] != straight[1:3]


def side_by_side(folder: Path, n: int, parallel: int, order: np.random.Generator) -> list[dict[str, Any]]:
    """The parameters of ``n`` trials of which ``parallel`` are under way at once and end in any order; some sessions are killed."""
    trials = Trials(folder, plan_of(BOWL, START, parallel=parallel))
    under_way: dict[int, dict[str, Any]] = {}
    seen: dict[int, dict[str, Any]] = {}
    while len(trials.ended()) < n:
        while (begun := trials.begin(under_way, n)) is not None:
            under_way[begun[0]] = begun[1]
            assert seen.setdefault(*begun) == begun[1]
        assert 0 < len(under_way) <= parallel
        if order.random() < 0.2:
            trials, under_way = Trials(folder, trials.plan), {}
            continue
        number = int(order.choice(list(under_way)))
        params = under_way.pop(number)
        trials.end(Trial(number, Ended.FINISHED, params, bowl(params), {}, 0.0), {})
    assert [trial.number for trial in trials.ended()] == list(range(n))
    return [trial.params for trial in trials.ended()]


def test_trials_side_by_side_do_not_depend_on_which_ends_first(tmp_path: Path) -> None:
    found = []
    for attempt in range(2):
        (tmp_path / str(attempt)).mkdir()
        found.append(side_by_side(tmp_path / str(attempt), 15, 3, np.random.default_rng(attempt)))
    assert found[0] == found[1]
    # Trials at once differ: those under way count as poor.
    assert len({tuple(params.items()) for params in found[0]}) == 15


def test_another_number_of_trials_at_once_is_another_search(tmp_path: Path) -> None:
    side_by_side(tmp_path, 4, 2, np.random.default_rng(0))
    assert Trials(tmp_path, plan_of(BOWL, START, parallel=2)).begin(below=3) is None
    with pytest.raises(RunError, match="parallel is 3, there 2"):
        Trials(tmp_path, plan_of(BOWL, START, parallel=3))


def test_own_values_outside_of_the_space_are_tried_first_too(tmp_path: Path) -> None:
    trials = Trials(tmp_path, plan_of(BOWL, {**START, "x": 2.0}))
    assert trials.begin() == (0, {"n": 60, "mode": "a"})


def test_another_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    draw(Trials(tmp_path, plan_of(BOWL, START)), 1)
    wider = {**BOWL, "x": Parameter(Kind.FLOAT, 0.0, 2.0)}
    for plan, said in [
        (plan_of(wider, START), "space differs in x"),
        (plan_of(BOWL, {**START, "n": 2}), "params differs in n"),
        (
            plan_of(BOWL, START, source_sha256="f" * 64),
            "source_sha256 is ffffffffffffffff..., there cccccccccccccccc",
        ),
        (plan_of(BOWL, START, seeds=(0, 1)), "seeds is [0, 1], there [0]"),
    ]:
        with pytest.raises(RunError, match="holds another search") as refused:
            Trials(tmp_path, plan)
        assert said in str(refused.value)
    assert len(Trials(tmp_path, plan_of(BOWL, START)).ended()) == 1


def test_values_keep_their_types(tmp_path: Path) -> None:
    space = {
        "tune": Parameter(Kind.CATEGORICAL, choices=(False, True)),
        "sizes": Parameter(Kind.CATEGORICAL, choices=([8, 8], [16])),
        "step": Parameter(Kind.FLOAT, 0.0, 1.0, step=0.25),
    }
    trials = Trials(tmp_path, plan_of(space, {"tune": True, "sizes": [16], "step": 0.5}))
    assert trials.begin() == (0, {"tune": True, "sizes": [16], "step": 0.5})
    curves = {key(): {1: 0.5, 2: 0.6}}
    trials.end(Trial(0, Ended.FINISHED, {}, 1.0, {"t": 1.0}, 2.0), curves)
    again = Trials(tmp_path, trials.plan)
    assert again.curves(1) == [curves]
    assert again.curves(0) == []
    (kept,) = again.ended()
    assert kept == Trial(0, Ended.FINISHED, {"tune": True, "sizes": [16], "step": 0.5}, 1.0, {"t": 1.0}, 2.0)


# ------------------------------------------------------------------------------------------------------------- written


def test_a_search_is_written_and_read(tmp_path: Path) -> None:
    space = {
        "x": Parameter(Kind.FLOAT, 1e-6, 1.0, log=True),
        "sizes": Parameter(Kind.CATEGORICAL, choices=([8], [16])),
        "say": Parameter(Kind.CATEGORICAL, choices=('a "b"\\', "c")),
    }
    params = {"x": 0.5, "sizes": [8], "say": "c", "left": 3}
    drawn = {"x": 1.5e-05, "sizes": [16], "say": 'a "b"\\'}
    trials = (
        Trial(0, Ended.FINISHED, params, 0.25, {"t": 0.25}, 2.0),
        Trial(1, Ended.FINISHED, drawn, 0.5, {"t": 0.5}, 3.0),
        Trial(2, Ended.FAILED, drawn, None, {}, 0.5, "it broke"),
        Trial(3, Ended.PRUNED, drawn, None, {}, 0.25, "behind"),
        Trial(4, Ended.FINISHED, params, 0.5, {"t": 0.5}, 3.0),
    )
    search = make_search(plan_of(space, params), "e" * 64, "5.0.0", trials)
    assert search.best == 1
    assert make_search(plan_of(space, params, higher_is_better=False), "e" * 64, "5", trials).best == 0
    write_search(tmp_path, search)
    assert read_search(tmp_path / SEARCH) == search
    assert tomllib.loads((tmp_path / "best.toml").read_text())["suites"]["tiny"]["params"] == drawn
    named = make_search(plan_of(space, params, config="base", submission="s@base"), "e" * 64, "5.0.0", trials)
    assert tomllib.loads(best_toml(named))["configs"]["base"] == drawn
    best, info = search.tuned("s", None, "e" * 64)
    assert best == {**params, **drawn}
    assert (info.trials, info.finished, info.pruned, info.failed, info.seconds) == (5, 3, 1, 1, 8.75)
    assert (info.best, info.value, info.parameters) == (1, 0.5, ("x", "sizes", "say"))
    shown = render_search(search)
    assert "5 trials (3 finished, 1 pruned, 1 failed), 8.8 s of runs" in shown
    assert "best: trial 1 with 0.5000; the submission's own parameters (trial 0): 0.2500" in shown
    for row, config, digest in (("other", None, "e" * 64), ("s", "base", "e" * 64), ("s", None, "0" * 64)):
        with pytest.raises(RunError, match="the search was"):
            search.tuned(row, config, digest)
    empty = make_search(plan_of(space, params), "e" * 64, "5.0.0", trials[2:4])
    assert best_toml(empty) == ""
    with pytest.raises(RunError, match="no finished trial"):
        empty.tuned("s", None, "e" * 64)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "cannot be read as JSON"), ("[]", "schema_version is 'list'"), ('{"schema_version": 9}', "is 9")],
)
def test_what_is_no_search_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / SEARCH).write_text(text)
    with pytest.raises(RunError) as refused:
        read_search(tmp_path / SEARCH)
    assert said.replace("'list'", "None") in str(refused.value)
