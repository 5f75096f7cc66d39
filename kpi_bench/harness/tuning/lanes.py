"""The folders in which trials are made: as many as there are trials at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kpi_bench.harness.records import RowPlace
from kpi_bench.harness.tuning.record import Ended, Trial


class Lanes:
    """The lanes of a search in ``folder``, each an output folder for one trial after another. They share the row's cache; each keeps its last
    pre-training, which the others may copy. ``registers`` are theirs, read now and the same for all trials: code of the submission may run afterwards."""

    def __init__(self, folder: Path, view: str, row: str, n: int) -> None:
        self._folder = folder
        self.all = tuple(RowPlace(folder / "trial" / str(lane), view, row) for lane in range(n))
        self.registers = tuple(lane.register() for lane in self.all)
        cache = folder / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        for lane in self.all:
            lane.folders.root.mkdir(parents=True, exist_ok=True)
            link = lane.folders.root / "cache"
            if not link.exists():
                link.symlink_to(os.path.relpath(cache, link.parent))

    def of(self, number: int) -> RowPlace:
        """The lane of a trial: trial n is begun when trial n less the number of lanes has ended."""
        return self.all[number % len(self.all)]

    def put_away(self, trial: Trial, *, leads: bool) -> None:
        """Keep the best trial's predictions and a failed one's logs; the lane's next trial finds the cache and the pre-training."""
        lane = self.of(trial.number)
        root = lane.folders.root
        if leads:
            shutil.rmtree(self._folder / "best", ignore_errors=True)
            lane.folders.predictions().rename(self._folder / "best")
        if trial.ended is Ended.FAILED:
            for log in sorted(root.rglob("run.log")):
                target = self._folder / "failed" / f"trial{trial.number}" / log.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(log, target)
        for name in ("runs", "predictions"):
            shutil.rmtree(root / name, ignore_errors=True)
        shutil.rmtree(lane.out / "results", ignore_errors=True)
