"""One evaluation at a time in an output folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kpi_bench.errors import RunError


@contextmanager
def only_user_of(out: Path) -> Iterator[None]:
    """Hold the output folder: two evaluations in one would remove each other's files and share the cores that they time.

    Raises:
        RunError: another evaluation holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another evaluation is using {out}; wait for it, or name another folder with --out"
            ) from None
        yield
