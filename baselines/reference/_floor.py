"""What the floors share. Nothing here or in the floors imports torch: a floor's import time is part of its cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from baselines.common.config import refuse_unknown
from kpi_bench import Submission
from kpi_bench.errors import SubmissionError

T = TypeVar("T")


class Floor(Submission):
    """A submission whose state is a few arrays, written by :meth:`export` as they are (safetensors, numpy)."""

    keys: ClassVar[frozenset[str]] = frozenset()
    """Parameters that the floor reads."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        refuse_unknown(self.params, self.keys, type(self).__name__)
        self.state: dict[str, NDArray[Any]] = {}

    def parameters(self) -> Mapping[str, int]:
        """Floors count; they train nothing."""
        return {"total": sum(array.size for array in self.state.values()), "trainable": 0}

    def export(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        if self.state:
            save_file(
                {name: np.ascontiguousarray(a) for name, a in self.state.items()},
                folder / "state.safetensors",
            )

    def expect(self, value: object, kind: type[T]) -> T:
        """``value`` if it is a ``kind``; else a SubmissionError that says which task kind the floor answers."""
        if not isinstance(value, kind):
            raise SubmissionError(
                f"{type(self).__name__} needs a {kind.__name__}, not a {type(value).__name__}"
            )
        return value
