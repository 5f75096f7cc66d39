"""Runs side by side as Ray tasks, on a cluster of this machine alone or on one that is there already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from kpi_bench.errors import KpiBenchError, RunError
from kpi_bench.harness.environment import usable_cores
from kpi_bench.harness.executors._node import Share
from kpi_bench.harness.executors._session import RaySession, require_gpus
from kpi_bench.harness.executors.base import Premises, Session
from kpi_bench.harness.supervise import Progress

OBJECT_STORE_BYTES = 100 * 2**20


class RayExecutor:
    """An ``Executor`` on Ray, connected while its context is open.

    ``address``: None starts a cluster on this machine; ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT`` join one. ``gpus_per_run``: None
    is one where the device is a GPU. Of ``--processes`` each has the CPUs and GPUs of a run; all are on one machine, or
    ``processes_per_node`` on each of several. ``temp_dir`` holds the sockets of a cluster started here (at most about 40 characters long).

    Raises:
        RunError: Ray is not installed, gives no such share of GPUs, or (on entering) there is no cluster.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus_per_run: int = 1,
        gpus_per_run: float | None = None,
        processes_per_node: int | None = None,
        temp_dir: Path | None = None,
    ) -> None:
        require_gpus(gpus_per_run or 0.0, "--gpus-per-run")
        self.address = address
        self.cpus_per_run = cpus_per_run
        self.gpus_per_run = gpus_per_run
        self.processes_per_node = processes_per_node
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
        share = Share(self.cpus_per_run, gpus)
        session = RaySession(self._ray, premises, share, self.processes_per_node, on_message)
        try:
            session.check()
            yield session
        finally:
            session.close()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RunError(
            "--executor ray needs Ray, which is not installed: pip install 'kpi-bench[ray]'"
        ) from error
    return ray
