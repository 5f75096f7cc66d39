"""Machines of a run meet through a mailbox that may be lost meanwhile. Ray is played by the calls that it would pass on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from kpi_bench.harness.executors._node import Mailbox
from kpi_bench.harness.executors._run import Part, _Meeting
from kpi_bench.harness.records import RunSite
from kpi_bench.harness.supervise import JobRecord


class Box:
    """The mailbox as a remote actor; ``lose`` has it started again, knowing nothing."""

    def __init__(self) -> None:
        self.lose()

    def lose(self) -> None:
        self.inner = Mailbox()

    @property
    def meet(self) -> Any:
        return SimpleNamespace(remote=lambda name, number: self.inner.meet(name, number))


@pytest.fixture
def ends() -> dict[str, Part]:
    """What came of tasks that have ended."""
    return {}


@pytest.fixture
def meeting(
    monkeypatch: pytest.MonkeyPatch, ends: dict[str, Part]
) -> Iterator[Callable[..., tuple[_Meeting, Box]]]:
    monkeypatch.setattr("ray.get", lambda value: ends.get(value, value))
    monkeypatch.setattr("ray.cancel", lambda task, force: ends.setdefault(task, _part("ended")))
    monkeypatch.setattr("ray.wait", lambda tasks, timeout: ([t for t in tasks if t in ends], []))
    box = Box()
    with ExitStack() as stack:

        def make(number: int, tasks: tuple[str, ...] = ()) -> tuple[_Meeting, Box]:
            common: Any = SimpleNamespace(mailbox=box)
            return stack.enter_context(_Meeting(common, "run", number, 2, tasks)), box

        yield make


def _part(error: str | None) -> Part:
    return Part(JobRecord(error=error), "away", RunSite({}, {}, None), False)


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not until():
        assert time.monotonic() < deadline, "nobody came"
        time.sleep(0.01)


def test_machines_meet_though_the_mailbox_is_lost_after_one_was_told(
    meeting: Callable[..., tuple[_Meeting, Box]],
) -> None:
    (first, box), (second, _) = meeting(0), meeting(1)
    _wait(lambda: second._meet("begun") or first._meet("begun"))
    # As though the first had not been told yet.
    first._met.clear()
    box.lose()
    assert not second.ready()
    _wait(lambda: first._meet("begun"))
    _wait(first.ready)
    box.lose()
    _wait(second.ready)


def test_nobody_waits_for_a_machine_that_has_failed(
    meeting: Callable[..., tuple[_Meeting, Box]], ends: dict[str, Part]
) -> None:
    first, _ = meeting(0, ("task",))
    waiting = threading.Thread(target=first.gather, daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    ends["task"] = _part("no such graphics card")
    waiting.join(10)
    assert not waiting.is_alive()
    assert first.failed(10)
