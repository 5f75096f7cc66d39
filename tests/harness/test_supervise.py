"""The parent's side of a run: the child's environment, the line between them, and what the parent makes of odd children."""

from __future__ import annotations

from pathlib import Path

import pytest
from submission_factory import write_submission

from kpi_bench.errors import RunError, SubmissionError
from kpi_bench.harness.channel import Channel, Message
from kpi_bench.harness.child_environment import PASSED_ON, child_environment
from kpi_bench.harness.inspection import inspect
from kpi_bench.harness.protocol import Context, LazyGraphs
from kpi_bench.harness.supervise import JobRecord, Limits, Progress, default_memory_limit, run_job
from kpi_bench.harness.withhold import withheld_copy
from kpi_bench.harness.worker import Action, Job
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import TaskKind

OWN = {
    "HOME", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "PYTHONUNBUFFERED",
}  # fmt: skip


class TestChildEnvironment:
    """An allow-list: what is not on it does not reach the child."""

    def test_only_what_is_listed_passes(self) -> None:
        parent = dict.fromkeys(PASSED_ON, "x") | {
            "HF_TOKEN": "t", "AWS_ACCESS_KEY_ID": "t", "GITHUB_TOKEN": "t", "WANDB_API_KEY": "t", "SSH_AUTH_SOCK": "t", "NEW_SECRET": "t",
        }  # fmt: skip
        env = child_environment(Path("/s"), offline=True, environ=parent)
        assert set(env) == set(PASSED_ON) | OWN
        assert "t" not in env.values()

    def test_an_empty_parent(self) -> None:
        env = child_environment(Path("/s"), offline=True, environ={})
        assert set(env) == OWN
        assert env["HOME"] == "/s"

    @pytest.mark.parametrize(("offline", "value"), [(True, "1"), (False, "0")])
    def test_the_hub_is_on_or_off(self, offline: bool, value: str) -> None:
        env = child_environment(Path("/s"), offline=offline, environ={"HF_HUB_OFFLINE": "7"})
        assert env["HF_HUB_OFFLINE"] == value

    @pytest.mark.parametrize(
        ("parent", "cache"),
        [
            ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
            ({"HOME": "/h", "XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
            ({"HOME": "/h", "XDG_CACHE_HOME": "/c", "HF_HOME": "/hf"}, "/hf/hub"),
            ({"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
            ({"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"}, "/new"),
        ],
    )
    def test_the_hubs_cache_is_the_parents_and_nothing_else_of_it(
        self, parent: dict[str, str], cache: str
    ) -> None:
        env = child_environment(Path("/s"), offline=True, environ=parent)
        assert env["HF_HUB_CACHE"] == cache
        assert env["HF_HOME"] == "/s/huggingface"
        assert env["HF_TOKEN_PATH"] == "/s/no-token"
        assert "XDG_CACHE_HOME" not in env


class TestChannel:
    def test_messages_arrive_in_order_whatever_their_size(self) -> None:
        ours, theirs = Channel.pair()
        sent = [{"kind": "note", "n": n, "text": "ü\n" * n} for n in (0, 1, 20_000)]
        for message in sent:
            theirs.send(message)
        assert [ours.receive(1.0) for _ in sent] == sent
        ours.close()
        theirs.close()

    def test_no_message_in_time(self) -> None:
        ours, theirs = Channel.pair()
        assert ours.receive(timeout=0.01) is None
        theirs.send({"a": 1})
        assert ours.receive(timeout=0.01) == {"a": 1}
        ours.close()
        theirs.close()

    def test_the_other_end_is_gone(self) -> None:
        ours, theirs = Channel.pair()
        theirs.send({"last": True})
        theirs.close()
        assert ours.receive() == {"last": True}
        with pytest.raises(EOFError):
            ours.receive()
        with pytest.raises(RunError, match="closed the line"):
            ours.send({})
        ours.close()


class TestContext:
    def test_reports(self, tmp_path: Path) -> None:
        sent: list[tuple[str, dict[str, object]]] = []
        ctx = Context(0, "cpu", tmp_path, {}, lambda kind, **values: sent.append((kind, values)))
        ctx.log(3, 1)
        ctx.note("encoder", "bow")
        # The second item comes too soon after the first to be told.
        assert list(ctx.progress("ab", "reading")) == ["a", "b"]
        assert list(ctx.progress(iter("c"), "counting", total=9)) == ["c"]
        assert sent == [
            ("curve", {"step": 3, "value": 1.0, "metric": "valid"}),
            ("note", {"key": "encoder", "value": "bow"}),
            ("progress", {"description": "reading", "done": 0, "total": 2}),
            ("progress", {"description": "counting", "done": 0, "total": 9}),
        ]

    def test_reports_may_be_dropped(self, tmp_path: Path) -> None:
        ctx = Context(0, "cpu", tmp_path, {})
        ctx.log(0, 0.5)
        assert list(ctx.progress(range(3), "x")) == [0, 1, 2]

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_no_result_can_hold(self, tmp_path: Path, value: float) -> None:
        ctx = Context(0, "cpu", tmp_path, {})
        with pytest.raises(SubmissionError, match="at step 4 is"):
            ctx.log(4, value)
        with pytest.raises(SubmissionError, match=r"ctx\.note: loss is"):
            ctx.note("loss", value)
        with pytest.raises(SubmissionError, match=r"ctx\.note: sizes is"):
            ctx.note("sizes", [1, 2])  # type: ignore[arg-type]

    def test_graphs_are_read_when_asked_for(self, tiny_suite: Suite) -> None:
        asked: list[str] = []

        def read(name: str) -> object:
            asked.append(name)
            return tiny_suite.graph(name)

        graphs = LazyGraphs(["shop", "library"], read)  # type: ignore[arg-type]
        assert list(graphs) == ["shop", "library"]
        assert len(graphs) == 2
        assert "shop" in graphs
        asked.clear()
        assert graphs["library"].name == "library"
        assert asked == ["library"]
        with pytest.raises(KeyError):
            graphs["garage"]


def run(
    tiny_suite: Suite,
    place: Path,
    methods: str,
    limits: Limits | None = None,
    on_message: Progress | None = None,
) -> JobRecord:
    """One run of a submission on shop_games_qa, without the evaluation around it."""
    config = write_submission(place / "odd", methods)
    job = Job(
        action=Action.ADAPT,
        submission=str(config.folder),
        params={},
        suite=str(withheld_copy(tiny_suite, place / "withheld")),
        kinds=(TaskKind.CLASSIFICATION,),
        task="shop_games_qa",
        seed=0,
        device="cpu",
        scratch=str(place / "run" / "scratch"),
        cache=str(place / "cache"),
        pretrained=None,
        output=str(place / "seed0"),
        export=str(place / "export"),
    )
    return run_job(job, place / "run", limits=limits, on_message=on_message)


@pytest.mark.parametrize("kept", [-1, 11])
def test_kept_parameters_are_among_the_total(tiny_suite: Suite, tmp_path: Path, kept: int) -> None:
    methods = f"def parameters(self):\n    return {{'total': 10, 'trainable': 0, 'kept': {kept}}}"
    record = run(tiny_suite, tmp_path, methods)
    assert record.error is not None
    assert f"parameters() counts {kept} kept of 10 in total" in record.error


def test_a_good_run(tiny_suite: Suite, tmp_path: Path) -> None:
    record = run(tiny_suite, tmp_path, "pass")
    assert record.error is None
    assert list(record.laps) == ["load", "adapt", "predict"]
    assert record.laps["predict"].queries == 20
    assert record.wall_s >= sum(lap.wall_s for lap in record.laps.values())
    assert record.peak_rss > 10 * 2**20
    assert (tmp_path / "seed0.parquet").is_file()


def test_compiled_kernels_outlive_a_run(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    methods = """
    def adapt(self, task, ctx):
        import os
        ctx.note("kernels", os.environ["TRITON_CACHE_DIR"])
    """
    assert run(tiny_suite, tmp_path, methods).notes["kernels"] == str(tmp_path / "triton")


def test_a_message_that_makes_no_sense_ends_that_run_alone(tiny_suite: Suite, tmp_path: Path) -> None:
    methods = """
    def adapt(self, task, ctx):
        ctx.report("curve", step="no value")
    """
    record = run(tiny_suite, tmp_path, methods)
    assert record.error is not None
    assert record.error.startswith("adapt sent the harness a message that it cannot read: ValueError")


@pytest.mark.parametrize("error", [KeyError, ValueError, RunError])
def test_a_fault_of_who_listens_is_not_the_childs(
    tiny_suite: Suite, tmp_path: Path, error: type[Exception]
) -> None:
    def listen(message: Message) -> None:
        raise error("mine")

    with pytest.raises(error, match="mine"):
        run(tiny_suite, tmp_path, "pass", on_message=listen)


@pytest.mark.parametrize("named", ['"dropout"', "{1}", "None", "lambda self: ()"])
def test_adapt_only_names_parameters(tiny_suite: Suite, tmp_path: Path, named: str) -> None:
    config = write_submission(tmp_path / "odd", f"adapt_only = {named}")
    with pytest.raises(SubmissionError, match=r"Method\.adapt_only is .*; wanted is a set of names"):
        inspect(config, tiny_suite, tmp_path / "inspect", Limits(), offline=True)


def test_a_child_that_cuts_the_line(tiny_suite: Suite, tmp_path: Path) -> None:
    methods = """
    def adapt(self, task, ctx):
        print("closing everything")
        os.closerange(3, 256)
    """
    record = run(tiny_suite, tmp_path, methods)
    assert record.error is not None
    assert "adapt ended the process with exit code 1 before its work was done" in record.error
    assert str(tmp_path / "run" / "run.log") in record.error
    assert "Bad file descriptor" in record.error


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("def __init__(self, params):\n    raise OSError('no weights')", "load failed: OSError: no weights"),
        (
            "def parameters(self):\n    os._exit(5)",
            "the time after predict ended the process with exit code 5",
        ),
    ],
)
def test_errors_say_where_in_the_run_they_came(
    tiny_suite: Suite, tmp_path: Path, methods: str, words: str
) -> None:
    assert (run(tiny_suite, tmp_path, methods).error or "").startswith(words)


def test_limits_by_default() -> None:
    assert Limits() == Limits(None, None)
    assert default_memory_limit() > 2**28
