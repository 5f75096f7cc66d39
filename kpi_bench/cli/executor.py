"""Options that say where runs are made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kpi_bench.cli.arguments import count, positive_or_zero
from kpi_bench.errors import RunError

if TYPE_CHECKING:
    from kpi_bench.harness.executors.base import Executor


def add_executor(command: argparse.ArgumentParser) -> None:
    """Where runs are made: docs/scale.md."""
    group = command.add_argument_group("executor")
    group.add_argument(
        "--executor",
        choices=("local", "ray"),
        default="local",
        help="local: one run after another; ray: side by side, here or on a cluster (default local)",
    )
    group.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="auto, HOST:PORT or ray://HOST:PORT of a cluster (default: start one on this machine)",
    )
    group.add_argument(
        "--cpus-per-run",
        type=count,
        metavar="N",
        help="CPUs, and most threads, of a run with ray, or of each of its --processes (default 1)",
    )
    group.add_argument(
        "--gpus-per-run",
        type=positive_or_zero,
        metavar="N",
        help="GPUs of a run with ray, or of each of its --processes, a fraction to share one (default 1 with a cuda device, else 0)",
    )


@contextmanager
def executor_for(
    options: argparse.Namespace, processes_per_node: int | None = None
) -> Iterator[tuple[Executor, str]]:
    """The executor that the options of :func:`add_executor` name, ready for use, and the device that ``--device`` means there.

    Raises:
        KpiBenchError: an option of another executor is given, or the executor or device is not there.
    """
    from kpi_bench.harness.environment import resolve_device
    from kpi_bench.harness.executors.local import LocalExecutor
    from kpi_bench.harness.executors.ray import RayExecutor

    if options.executor == "local":
        of_ray = {name: getattr(options, name) for name in ("ray_address", "cpus_per_run", "gpus_per_run")}
        for name, value in {**of_ray, "processes_per_node": processes_per_node}.items():
            if value is not None:
                raise RunError(f"--{name.replace('_', '-')} is for --executor ray")
        yield LocalExecutor(), resolve_device(options.device)
        return
    with RayExecutor(
        options.ray_address,
        cpus_per_run=options.cpus_per_run or 1,
        gpus_per_run=options.gpus_per_run,
        processes_per_node=processes_per_node,
    ) as executor:
        yield executor, executor.resolve_device(options.device)
