"""Runs side by side as Ray tasks, on a cluster of this machine alone or on one that is there already."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from kpi_bench.errors import KpiBenchError, RunError
from kpi_bench.harness.environment import usable_cores
from kpi_bench.harness.execute import Executed, Order, failed
from kpi_bench.harness.executors._node import Mailbox, Node, Share, check_node, make_run
from kpi_bench.harness.executors.base import Premises, Session
from kpi_bench.harness.supervise import Progress

RETRIES = 3
"""How often a run whose worker or machine died is made again. A submission that fails is not."""
POLL_S = 0.25
GRACE_S = 10.0
OBJECT_STORE_BYTES = 100 * 2**20
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
# What shapes results or says where models are cached; the rest of a run's environment is its machine's own.
SENT_ALONG = (
    "PYTHONHASHSEED", "KMP_AFFINITY", "KMP_BLOCKTIME", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PYTORCH_CUDA_ALLOC_CONF", "DGLBACKEND",
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME",
)  # fmt: skip


class RayExecutor:
    """An ``Executor`` on Ray, connected while its context is open.

    ``address``: None starts a cluster on this machine; ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT`` join one. ``gpus_per_run``: None
    is one where the device is a GPU. ``temp_dir`` holds the sockets of a cluster started here (at most about 40 characters long).

    Raises:
        RunError: Ray is not installed, gives no such share of GPUs, or (on entering) there is no cluster.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus_per_run: int = 1,
        gpus_per_run: float | None = None,
        temp_dir: Path | None = None,
    ) -> None:
        share = gpus_per_run or 0.0
        if share != round(share, 0 if share > 1 else 4):
            raise RunError(
                f"--gpus-per-run {share:g}: Ray gives a run a whole number of GPUs, or a share of one in steps of .0001"
            )
        self.address = address
        self.cpus_per_run = cpus_per_run
        self.gpus_per_run = gpus_per_run
        self.temp_dir = temp_dir
        self._ray = _import_ray()

    def __enter__(self) -> RayExecutor:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options |= {"num_cpus": usable_cores(), "include_dashboard": False}
            options |= {"object_store_memory": OBJECT_STORE_BYTES}
            options |= {"_temp_dir": str(self.temp_dir)} if self.temp_dir else {}
        try:
            self._ray.init(self.address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError, ImportError, OSError) as error:
            raise RunError(
                f"no Ray cluster at {self.address or 'this machine'}: {error}. --ray-address takes auto, HOST:PORT or ray://HOST:PORT "
                "(for ray://, pip install 'ray[client]'); a cluster with token authentication wants RAY_AUTH_MODE=token here, too"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()

    def resolve_device(self, name: str) -> str:
        """``auto`` is a GPU where the cluster has one; a run sees the GPUs that Ray gives it and no others, the first is ``cuda:0``.

        Raises:
            KpiBenchError: another GPU than the first is named.
        """
        if name == "auto":
            return "cuda:0" if self._ray.cluster_resources().get("GPU") else "cpu"
        if name not in ("cpu", "cuda", "cuda:0"):
            raise KpiBenchError(
                f"--device {name} with --executor ray: Ray chooses the GPU of a run; use --device cuda"
            )
        return "cpu" if name == "cpu" else "cuda:0"

    @contextmanager
    def session(self, premises: Premises, on_message: Progress) -> Iterator[Session]:
        gpus = self.gpus_per_run
        if gpus is None:
            gpus = 0.0 if premises.device == "cpu" else 1.0
        if premises.device != "cpu" and not gpus:
            raise RunError(
                "--gpus-per-run 0: Ray shows such a run no GPU; use --device cpu, or a share of one"
            )
        session = _RaySession(self._ray, premises, Share(self.cpus_per_run, gpus), on_message)
        try:
            session.check()
            yield session
        finally:
            session.close()


class _RaySession:
    """One evaluation's runs, by the reference that Ray gave for each."""

    side_by_side = True

    def __init__(self, ray: Any, premises: Premises, share: Share, on_message: Progress) -> None:
        self._ray = ray
        self._premises = premises
        self._share = share
        self._on_message = on_message
        self._environment = {"env_vars": run_environment(share.cpus)}
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1).remote()
        self._nodes: dict[str, Node] = {}
        self._running: dict[Any, Order] = {}

    def check(self) -> None:
        """Look at every machine that may get a run.

        Raises:
            RunError: none is large enough, or one cannot make runs; says which and why.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        fitting = self._fitting()
        hosts = {name: node["NodeManagerHostname"] for name, node in fitting.items()}
        token, secret = self._premises.out / f".seen-{uuid.uuid4().hex}", uuid.uuid4().hex
        token.write_text(secret, encoding="utf-8")
        remote = self._ray.remote(check_node)
        try:
            asked = {
                name: remote.options(
                    num_cpus=0,
                    runtime_env=self._environment,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False),
                ).remote(self._premises, token, secret)
                for name in fitting
            }
            answers = {name: self._answer(hosts[name], ref) for name, ref in asked.items()}
        finally:
            token.unlink(missing_ok=True)
        faults = [f"{hosts[name]}: {fault}" for name, (found, _) in answers.items() for fault in found]
        if faults:
            raise RunError("machines of the Ray cluster cannot make runs:\n  " + "\n  ".join(faults))
        self._nodes = {
            name: Node(site, float(fitting[name]["Resources"]["CPU"]))
            for name, (_, site) in answers.items()
            if site
        }

    def submit(self, order: Order) -> None:
        remote = self._ray.remote(make_run).options(
            name=f"{order.run.task or 'pretrain'}-seed{order.run.seed}",
            num_cpus=self._share.cpus,
            num_gpus=self._share.gpus,
            max_retries=RETRIES,
            retry_exceptions=False,
            runtime_env=self._environment,
        )
        self._running[remote.remote(order, self._share, self._nodes, self._mailbox)] = order

    def wait(self) -> tuple[Order, Executed]:
        from ray.exceptions import RayError

        while True:
            try:
                ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=POLL_S)
            except RayError as error:
                raise RunError(f"the Ray cluster is gone: {error}") from error
            self._deliver()
            if ended:
                order = self._running.pop(ended[0])
                return order, self._collect(order, ended[0])
            # Ray itself would wait for one to join.
            self._fitting()

    def close(self) -> None:
        """End what is still under way, first so that each run's processes are ended by the one that watches them."""
        from ray.exceptions import RayError

        left = list(self._running)
        self._running.clear()
        with suppress(RayError):
            for force in (False, True):
                for ref in left:
                    self._ray.cancel(ref, force=force)
                if left:
                    _, left = self._ray.wait(left, num_returns=len(left), timeout=GRACE_S)
            self._ray.kill(self._mailbox)

    def _fitting(self) -> dict[str, Any]:
        """The machines, as Ray describes them, that are large enough for a run.

        Raises:
            RunError: there is none.
        """
        share, alive = self._share, [node for node in self._ray.nodes() if node["Alive"]]
        fitting = {
            node["NodeID"]: node
            for node in alive
            if node["Resources"].get("CPU", 0) >= share.cpus and node["Resources"].get("GPU", 0) >= share.gpus
        }
        if not fitting:
            listed = "; ".join(
                f"{node['NodeManagerHostname']}: {node['Resources'].get('CPU', 0):g} CPUs, {node['Resources'].get('GPU', 0):g} GPUs"
                for node in alive
            )
            raise RunError(
                f"no machine of the Ray cluster has the {share.cpus} CPU(s) and {share.gpus:g} GPU(s) of one run "
                f"(--cpus-per-run, --gpus-per-run); there are {listed}"
            )
        return fitting

    def _answer(self, host: str, ref: Any) -> Any:
        from ray.exceptions import RayError

        try:
            return self._ray.get(ref)
        except RayError as error:
            raise RunError(
                f"{host}: kpi-bench cannot be run there; is the same version installed? Ray says: {error}"
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
            raise RunError(f"the harness failed on a machine of the Ray cluster: {error}") from error
        except RayError as error:
            return failed(
                order, f"its worker died {RETRIES + 1} times: {type(error).__name__}: {str(error).strip()}"
            )
        return executed


def run_environment(cpus: int, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of a run's process: no more threads than CPUs, and fewer where the user says so."""
    source = os.environ if environ is None else environ
    threads = {
        name: str(min(cpus, int(source[name]) or cpus) if source.get(name, "").isdecimal() else cpus)
        for name in THREADS
    }
    return {**{name: source[name] for name in SENT_ALONG if name in source}, **threads}


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RunError(
            "--executor ray needs Ray, which is not installed: pip install 'kpi-bench[ray]'"
        ) from error
    return ray
