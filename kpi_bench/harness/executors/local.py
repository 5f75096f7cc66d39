"""Runs one after another on this machine: the only way in which wall times mean what they say."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from kpi_bench.harness.execute import Executed, Order, execute, measure_site
from kpi_bench.harness.executors.base import Premises, Session, about
from kpi_bench.harness.supervise import Progress


class LocalExecutor:
    """An ``Executor`` that makes a run when it is waited for."""

    @contextmanager
    def session(self, premises: Premises, on_message: Progress) -> Iterator[Session]:
        yield _LocalSession(premises, on_message)


class _LocalSession:
    side_by_side = False

    def __init__(self, premises: Premises, on_message: Progress) -> None:
        self._site = measure_site(premises.device)
        self._on_message = on_message
        self._orders: deque[Order] = deque()

    def submit(self, order: Order) -> None:
        self._orders.append(order)

    def wait(self, seconds: float | None = None) -> tuple[Order, Executed]:
        order = self._orders.popleft()
        on_message = about(order, self._on_message)
        on_message({"kind": "started"})
        return order, execute(order, self._site, on_message)
