"""The runs of one evaluation on a Ray cluster: what each gets of which machines, and what came of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kpi_bench.errors import RunError
from kpi_bench.harness.execute import Executed, Order, failed
from kpi_bench.harness.executors._node import Common, Mailbox, Share, look_at, require_fit
from kpi_bench.harness.executors._run import LostMachineError, make_run
from kpi_bench.harness.executors.base import Premises
from kpi_bench.harness.ranks import THREADS
from kpi_bench.harness.supervise import Progress

RETRIES = 3
"""How often a run whose worker or machine died is made again. A submission that fails is not."""
POLL_S = 0.25
GRACE_S = 10.0
# What shapes results or says where models are cached; the rest of a run's environment is its machine's own.
SENT_ALONG = (
    "PYTHONHASHSEED", "KMP_AFFINITY", "KMP_BLOCKTIME", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PYTORCH_CUDA_ALLOC_CONF", "DGLBACKEND",
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME",
)  # fmt: skip


@dataclass(frozen=True)
class _Task:
    """A run under way: its order, what it gets, and the group that reserves it on several machines."""

    order: Order
    share: Share
    group: Any


class RaySession:
    """One evaluation's runs, by the reference that Ray gave for each."""

    side_by_side = True

    def __init__(
        self, ray: Any, premises: Premises, share: Share, per_node: int | None, on_message: Progress
    ) -> None:
        self._ray = ray
        self._share = share
        self._per_node = per_node
        self._on_message = on_message
        self._mailbox = self._open_mailbox()
        self._common = Common(premises, self._mailbox, run_environment(share.cpus))
        self._running: dict[Any, _Task] = {}

    def _open_mailbox(self) -> Any:
        """A mailbox on the machine of this process: it is there as long as somebody reads it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        remote = self._ray.remote(Mailbox)
        return remote.options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()

    def check(self) -> None:
        """Look at every machine that may get a run.

        Raises:
            RunError: none is large enough, or one cannot make runs; says which and why.
        """
        fitting = self._fitting(self._share)
        asked = {name: look_at(name, self._common) for name in fitting}
        found = {name: self._answer(fitting[name], ref) for name, ref in asked.items()}
        require_fit([fault for faults, _ in found.values() for fault in faults])
        self._ray.get(self._mailbox.found.remote({name: node for name, (_, node) in found.items()}))

    def submit(self, order: Order) -> None:
        share, processes = self._share_of(order), order.job.processes
        self._fitting(share)
        options = {
            "name": f"{order.run.task or 'pretrain'}-seed{order.run.seed}",
            "num_cpus": share.cpus,
            "num_gpus": share.gpus,
            "max_retries": RETRIES,
            "retry_exceptions": [LostMachineError],
            "runtime_env": {"env_vars": run_environment(self._share.cpus * processes)},
        }
        group = None
        if share.machines > 1:
            from ray.util import placement_group
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            of_machine = {"CPU": float(share.cpus)} | ({"GPU": share.gpus} if share.gpus else {})
            group = placement_group([of_machine] * share.machines, strategy="STRICT_SPREAD")
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, 0)
        # The suite's copy may have been made anew since the evaluation began.
        premises = dataclasses.replace(self._common.premises, suite_files=order.suite_files)
        common = dataclasses.replace(self._common, premises=premises)
        ref = self._ray.remote(make_run).options(**options).remote(order, share, common)
        self._running[ref] = _Task(order, share, group)

    def wait(self, seconds: float | None = None) -> tuple[Order, Executed] | None:
        from ray.exceptions import RayError

        while True:
            pause = POLL_S if seconds is None else seconds
            try:
                ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=pause)
            except RayError as error:
                raise RunError(f"the Ray cluster is gone: {error}") from error
            self._deliver()
            if ended:
                task = self._running.pop(ended[0])
                self._release([task])
                return task.order, self._collect(task.order, ended[0])
            # Ray itself would wait for one to join.
            for share in {task.share for task in self._running.values()}:
                self._fitting(share)
            if seconds is not None:
                return None

    def close(self) -> None:
        """End what is still under way, first so that each run's processes are ended by the one that watches them."""
        from ray.exceptions import RayError

        left, tasks = list(self._running), list(self._running.values())
        self._running.clear()
        with suppress(RayError):
            for force in (False, True):
                for ref in left:
                    self._ray.cancel(ref, force=force)
                if left:
                    _, left = self._ray.wait(left, num_returns=len(left), timeout=GRACE_S)
            self._release(tasks)
            self._ray.kill(self._mailbox)

    def _release(self, tasks: Sequence[_Task]) -> None:
        from ray.util import remove_placement_group

        for task in tasks:
            if task.group is not None:
                remove_placement_group(task.group)

    def _share_of(self, order: Order) -> Share:
        """What a run gets of each of its machines.

        Raises:
            RunError: its processes cannot be divided so.
        """
        processes = order.job.processes
        together = processes if self._per_node is None or processes == 1 else self._per_node
        if processes % together:
            raise RunError(
                f"--processes-per-node {together}: {processes} processes are not a multiple of that (--processes)"
            )
        gpus = self._share.gpus * together
        require_gpus(gpus, f"--gpus-per-run {self._share.gpus:g} for {together} processes of one machine")
        return Share(self._share.cpus * together, gpus, processes // together)

    def _fitting(self, share: Share) -> dict[str, Any]:
        """The machines, as Ray describes them, that are large enough for what a run gets of each of its machines.

        Raises:
            RunError: there are too few.
        """
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        fitting = {
            node["NodeID"]: node
            for node in alive
            if node["Resources"].get("CPU", 0) >= share.cpus and node["Resources"].get("GPU", 0) >= share.gpus
        }
        if len(fitting) < share.machines:
            listed = "; ".join(
                f"{node['NodeManagerHostname']}: {node['Resources'].get('CPU', 0):g} CPUs, {node['Resources'].get('GPU', 0):g} GPUs"
                for node in alive
            )
            few = f"only {len(fitting)} (wanted {share.machines})" if fitting else "no"
            raise RunError(
                f"{few} machine of the Ray cluster has the {share.cpus} CPU(s) and {share.gpus:g} GPU(s) of one run "
                f"(--cpus-per-run, --gpus-per-run, --processes); there are {listed}"
            )
        return fitting

    def _answer(self, node: Any, ref: Any) -> Any:
        from ray.exceptions import RayError

        try:
            return self._ray.get(ref)
        except RayError as error:
            raise RunError(
                f"{node['NodeManagerHostname']}: kpi-bench cannot be run there; is the same version installed? Ray says: {error}"
            ) from error

    def _deliver(self) -> None:
        from ray.exceptions import RayError

        with suppress(RayError):
            for message in self._ray.get(self._mailbox.take.remote()):
                self._on_message(message)

    def _collect(self, order: Order, ref: Any) -> Executed:
        from ray.exceptions import RayError, RayTaskError

        try:
            executed: Executed = self._ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, LostMachineError):
                return failed(order, f"a machine or worker of it died {RETRIES + 1} times: {error.cause}")
            if isinstance(error.cause, RunError):
                raise RunError(str(error.cause)) from error
            raise RunError(f"the harness failed on a machine of the Ray cluster: {error}") from error
        except RayError as error:
            return failed(
                order, f"its worker died {RETRIES + 1} times: {type(error).__name__}: {str(error).strip()}"
            )
        return executed


def require_gpus(share: float, what: str) -> None:
    """Raise RunError where Ray cannot give so many GPUs of a machine."""
    if share != round(share, 0 if share > 1 else 4):
        raise RunError(
            f"{what}: {share:g} GPUs; Ray gives a run a whole number on a machine, or a share of one in steps of .0001"
        )


def run_environment(cpus: int, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of a run's process: no more threads than CPUs, and fewer where the user says so."""
    source = os.environ if environ is None else environ
    threads = {
        name: str(min(cpus, int(source[name]) or cpus) if source.get(name, "").isdecimal() else cpus)
        for name in THREADS
    }
    return {**{name: source[name] for name in SENT_ALONG if name in source}, **threads}
