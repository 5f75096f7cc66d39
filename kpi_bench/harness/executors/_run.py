"""A run as a Ray task; one that pre-trains on several machines has a task on each of the others start and watch the ranks there."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kpi_bench.errors import RunError
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.execute import Executed, Order, execute
from kpi_bench.harness.executors._node import Common, Outbox, Share, node_here, prepare
from kpi_bench.harness.executors.base import about
from kpi_bench.harness.ranks import CAUSE_S, Place, free_port, interface_of
from kpi_bench.harness.records import RunSite
from kpi_bench.harness.supervise import ELSEWHERE, JobRecord, run_job
from kpi_bench.harness.worker import Job

POLL_S = 0.1
GRACE_S = 10.0
SILENT_S = 60.0
"""A machine that has not ended its part so long after it was told to is lost."""


class LostMachineError(RunError):
    """A machine of the run is gone: the run is made again from its start."""


@dataclass(frozen=True)
class Part:
    """What came of the ranks of a machine. ``shared``: others may have had the rest of it."""

    child: JobRecord
    host: str
    site: RunSite
    shared: bool


def make_run(order: Order, share: Share, common: Common) -> Executed:
    """Make one run, from here. Called again when the worker died in it: whatever that left is cleared first.

    Raises:
        RunError: a machine cannot make runs; LostMachineError: one that had a part of it is gone.
    """
    node = node_here(common)
    order, site = prepare(order, share, node)
    with Outbox(common.mailbox) as outbox:
        tell = about(order, outbox.add)
        tell({"kind": "started", "pid": os.getpid()})
        if share.machines == 1:
            return execute(order, site, tell, shared=share.of_several(node))
        company = _Company(order, share, common)
        executed = execute(order, site, tell, shared=share.of_several(node), run=company.run)
    record, parts = executed.record, company.parts
    record = dataclasses.replace(
        record,
        site=joint_site([site, *(part.site for part in parts)]),
        shared=record.shared or any(part.shared for part in parts),
    )
    return dataclasses.replace(executed, record=record)


def join_run(order: Order, number: int, place: Place, share: Share, common: Common, meeting: str) -> Part:
    """Start and watch the ranks that machine ``number`` of a run has, which is this one."""
    import ray

    node = node_here(common)
    order, site = prepare(order, share, node)
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    place = dataclasses.replace(place, first=number * place.count, interface=interface_of(address))
    with _Meeting(common, meeting, number, share.machines, []) as others:
        others.gather()
        child = run_job(
            dataclasses.replace(order.job, place=place),
            order.folder / f"machine{number}",
            limits=order.limits,
            offline=order.offline,
            search=order.search,
            partners=others,
        )
    return Part(child, address, site, share.of_several(node))


def joint_record(own: JobRecord, others: Sequence[JobRecord]) -> JobRecord:
    """``own`` with the CPU seconds and the memory of all added up; a phase lasts until the last has ended it."""

    def joint(name: str) -> Lap:
        laps = [child.laps[name] for child in (own, *others) if name in child.laps]
        wall, cpu = max(lap.wall_s for lap in laps), sum(lap.cpu_s for lap in laps)
        return dataclasses.replace(own.laps[name], wall_s=wall, cpu_s=cpu)

    peak_rss = own.peak_rss + sum(child.peak_rss for child in others)
    return dataclasses.replace(own, laps={name: joint(name) for name in own.laps}, peak_rss=peak_rss)


def joint_site(sites: Sequence[RunSite]) -> RunSite:
    """The first of several machines that made one run; ``hw_id`` names all of them, as none of its costs are those of one."""
    hw_id = " + ".join(str(site.hardware["hw_id"]) for site in sites)
    return dataclasses.replace(sites[0], hardware={**sites[0].hardware, "hw_id": hw_id})


class _Company:
    """All machines of a run, as that of rank 0 sees them."""

    def __init__(self, order: Order, share: Share, common: Common) -> None:
        self._order, self._share, self._common = order, share, common
        self.parts: list[Part] = []

    def run(self, job: Job, folder: Path, **settings: Any) -> JobRecord:
        """:func:`run_job` here, with the other ranks elsewhere."""
        import ray

        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        count = job.processes // self._share.machines
        place = Place(0, count, address, free_port(address), interface_of(address))
        meeting = uuid.uuid4().hex
        tasks = [self._start(number, place, meeting) for number in range(1, self._share.machines)]
        with _Meeting(self._common, meeting, 0, self._share.machines, tasks) as others:
            others.gather()
            own = run_job(dataclasses.replace(job, place=place), folder, partners=others, **settings)
            self.parts = others.end(at_once=own.error is not None)
        failed = sorted((part for part in self.parts if part.child.error), key=lambda part: part.child.echo)
        if failed and (own.error is None or own.error.startswith(ELSEWHERE)):
            own.error = f"{failed[0].host}: {failed[0].child.error}"
        return joint_record(own, [part.child for part in self.parts])

    def _start(self, number: int, place: Place, meeting: str) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group: Any = ray.util.get_current_placement_group()
        options: dict[str, Any] = {
            "name": f"machine {number} of {ray.get_runtime_context().get_task_name()}",
            "num_cpus": self._share.cpus,
            "num_gpus": self._share.gpus,
            "max_retries": 0,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, number),
        }
        remote = ray.remote(join_run).options(**options)
        return remote.remote(self._order, number, place, self._share, self._common, meeting)


class _Meeting:
    """The other machines of a run, as one of them sees them (``Partners``); ``tasks`` are theirs on the machine that started them.

    A rank that raised stays until it is ended, so nothing follows from that elsewhere: what another machine tells meanwhile came first.
    What a rank tells after another's sudden end may come first, too: it counts when no other cause is told within ``CAUSE_S``.
    """

    def __init__(self, common: Common, name: str, number: int, machines: int, tasks: Sequence[Any]) -> None:
        self._mailbox, self._name, self._number, self._machines = common.mailbox, name, number, machines
        self._waiting = list(tasks)
        self._parts: list[Part] = []
        self._fault: RunError | None = None
        self._failed_at: float | None = None
        self._asked: list[str] = []
        self._met: set[str] = set()
        self._ending = False
        self._changed = threading.Condition()
        self._over = threading.Event()
        # Not on the main thread: while that of a task waits for Ray, Ray gives its CPUs to another run.
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> _Meeting:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for force in (False, True):
            with self._changed:
                left, self._ending = list(self._waiting), True
            for task in left:
                ray.cancel(task, force=force)
            with self._changed:
                self._changed.wait_for(lambda: not self._waiting, GRACE_S if left else 0)
        self._over.set()
        self._thread.join()

    def gather(self) -> None:
        """Wait until all machines have begun, or one has ended with an error: until then no time counts."""
        while not self._meet("begun") and self._failed_at is None:
            time.sleep(POLL_S)

    def ready(self) -> bool:
        return self._meet("ready")

    def failed(self, seconds: float = 0.0) -> bool:
        def certain() -> bool:
            self._raise()
            return any(part.child.error and not part.child.echo for part in self._parts)

        with self._changed:
            if self._changed.wait_for(certain, seconds):
                return True
            if self._failed_at is None:
                return False
            return seconds > 0 or time.monotonic() - self._failed_at > CAUSE_S

    def end(self, *, at_once: bool) -> list[Part]:
        """What came of the others, when they have ended; ``at_once``: as far as they have, the rest is made to.

        Raises:
            LostMachineError: one does not answer.
        """
        import ray

        with self._changed:
            self._ending = at_once
            left = list(self._waiting) if at_once else []
        for task in left:
            ray.cancel(task)
        with self._changed:
            self._changed.wait_for(lambda: self._fault or not self._waiting, SILENT_S if at_once else None)
            self._raise()
            if self._waiting:
                raise LostMachineError(f"a machine of the run has not answered for {SILENT_S:g} s")
            return list(self._parts)

    def _meet(self, point: str) -> bool:
        with self._changed:
            self._raise()
            if point not in self._asked:
                self._asked.append(point)
            return point in self._met

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _work(self) -> None:
        import ray
        from ray.exceptions import RayError

        while not self._over.wait(POLL_S):
            # All of them: a mailbox that was lost is started again and knows of none, and another machine may still wait.
            for point in list(self._asked):
                with suppress(RayError):
                    there = ray.get(self._mailbox.meet.remote(f"{self._name} {point}", self._number))
                    if there == self._machines:
                        self._met.add(point)
            ended = ray.wait(self._waiting, timeout=0)[0] if self._waiting else []
            for task in ended:
                self._take(task)

    def _take(self, task: Any) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        part: Part | None = None
        fault: RunError | None = None
        try:
            part = ray.get(task)
        except TaskCancelledError as error:
            if not self._ending:
                fault = LostMachineError(f"a machine's part of the run was cancelled: {error}")
        except RayTaskError as error:
            fault = RunError(str(error.cause if isinstance(error.cause, RunError) else error))
        except RayError as error:
            fault = LostMachineError(f"a machine of the run is gone: {type(error).__name__}: {error}")
        with self._changed:
            self._waiting.remove(task)
            self._fault = self._fault or fault
            if part is not None:
                self._parts.append(part)
                if part.child.error and self._failed_at is None:
                    self._failed_at = time.monotonic()
            self._changed.notify_all()
