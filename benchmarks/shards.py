"""Peak memory and step time of a process that holds a part of the entity rows of a KG embedding, by the number of processes.

python -m benchmarks.shards --entities 1000000 --dim 128 --processes 1 2 4
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from baselines.common.kge.train import KgeConfig, create, loss_of, optimizer_of
from baselines.common.parallel import Ranks
from baselines.common.shards import Shard
from baselines.common.training import gradient_step
from kpi_bench import Context

POLL_S = 0.1


def measure(args: argparse.Namespace) -> dict[str, float]:
    """A few steps as one of the processes: peak MB beyond what the imports take, and the seconds of the last step."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    before = _peak_mb()
    ranks = Ranks.of(Context(0, "cpu", scratch=None, graphs={}, rank=rank, world_size=size))  # type: ignore[arg-type]
    config = KgeConfig(dim=args.dim, loss=args.loss, batch_size=args.batch, reg=0.0)
    model = create(config, args.entities, 10, 0, Shard(ranks, args.entities) if args.shard else None)
    sampler = torch.Generator().manual_seed(1)
    step = gradient_step(
        loss_of(model, config, sampler, ranks), optimizer_of(model.parameters(), config), ranks=ranks
    )
    seconds = 0.0
    for _ in range(args.steps):
        facts = torch.randint(10, (args.batch, 3), generator=sampler)
        facts[:, ::2] = torch.randint(args.entities, (args.batch, 2), generator=sampler)
        began = time.perf_counter()
        step(facts)
        seconds = time.perf_counter() - began
    return {"peak_mb": _peak_mb() - before, "step_s": seconds, "rows": len(model.entities)}


def _peak_mb() -> float:
    # Not getrusage: its peak starts from that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run(size: int, argv: list[str]) -> list[dict[str, Any]]:
    """What each of ``size`` processes has measured.

    Raises:
        RuntimeError: one has failed, with the end of what it said; the others are ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.shards", "--worker", *argv],
            env=os.environ | meeting | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        # A rank whose peer is gone may wait for it without end.
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(POLL_S)
        for rank, process in enumerate(processes):
            if process.poll():
                said = process.communicate()[1].strip()
                raise RuntimeError(f"rank {rank} of {size} failed: {said[-2000:]}")
        return [json.loads(process.communicate()[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--loss", default="sampled_softmax")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--shard", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args)))
        return
    shape = [f"--{name}={getattr(args, name)}" for name in ("entities", "dim", "batch", "steps", "loss")]
    print("| rows of a process | processes | peak MB of a process | step s |\n|---|---|---|---|")
    for shard, size in [(False, 1), (False, 2), *((True, size) for size in args.processes)]:
        found = run(size, [*shape, *(["--shard"] if shard else [])])
        rows = f"{found[0]['rows']:,}" + ("" if shard else ", not shared out")
        peak, step = (max(one[key] for one in found) for key in ("peak_mb", "step_s"))
        print(f"| {rows} | {size} | {peak:,.0f} | {step:.2f} |", flush=True)


if __name__ == "__main__":
    main()
