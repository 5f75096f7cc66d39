"""What an evaluation asks of whoever executes its runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kpi_bench._version import __version__
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.execute import Executed, Order
from kpi_bench.harness.supervise import Progress


@dataclass(frozen=True)
class Premises:
    """What the runs of an evaluation share, and every machine that makes one must have.

    ``out`` is the output folder, ``suite`` the suite's copy in it with the states of its files, ``sha256`` the submission's hash.
    """

    out: Path
    suite: Path
    suite_files: Mapping[str, tuple[int, ...]]
    config: SubmissionConfig
    sha256: str
    device: str
    version: str = __version__


def about(order: Order, on_message: Progress) -> Progress:
    """``on_message``, told of which run each message is."""
    run = {"task": order.run.task, "seed": order.run.seed}
    return lambda message: on_message({**message, **run})


class Session(Protocol):
    """Makes the runs of one evaluation."""

    @property
    def side_by_side(self) -> bool:
        """Whether further runs may be handed over while one is under way."""
        ...

    def submit(self, order: Order) -> None:
        """Hand over a run.

        Raises:
            RunError: the machines can never make it.
        """
        ...

    def wait(self, seconds: float | None = None) -> tuple[Order, Executed] | None:
        """Wait until one of the runs handed over has ended, whichever comes first; None where none has within ``seconds`` and others
        may be handed over meanwhile (:attr:`side_by_side`).

        Raises:
            RunError: the machines can make no runs any more.
        """
        ...


class Executor(Protocol):
    """Makes runs for one evaluation after another."""

    def session(self, premises: Premises, on_message: Progress) -> AbstractContextManager[Session]:
        """Get ready for one evaluation; leaving the context ends every run that is still under way.

        ``on_message`` is called in this process with what runs tell, each message with ``task`` and ``seed`` added;
        ``{"kind": "started"}`` is the first of a run.

        Raises:
            RunError: runs cannot be made here.
        """
        ...
