"""A CUDA device that is not there: tensors lie on the CPU and hold real values, the program believes they are on a GPU.

A storage is marked as one of the device's when a tensor is made there or moved there, and marks pass through every operation. With real
values data-dependent code runs as it is (fake tensors would stop at the first of it), and what makes the host wait for a GPU is recorded
with the place in our code that asked for it. Operands on two devices, and ``numpy()`` of a tensor on the device, are errors as on a GPU.

What CUDA kernels themselves do (numerics, memory, kernels that are missing) is not seen.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.common import training

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device("cuda")
DEVICE, HOST = "device", "host"

SYNCS = {
    f"aten.{name}"
    for name in (
        "_coalesce", "_local_scalar_dense", "_unique", "_unique2", "allclose", "bincount", "equal", "histc", "is_nonzero", "isin",
        "masked_select", "multinomial", "nonzero", "unique_consecutive", "unique_dim", "unique_dim_consecutive",
        "_linalg_check_errors", "linalg_lstsq",
    )
}  # fmt: skip
"""Operations after which CUDA's implementation copies a number to the host, since the result's shape or a check depends on it."""


@dataclass(frozen=True, order=True)
class Place:
    """An operation that waits for the device, and the innermost function of ours that asked for it."""

    file: str
    function: str
    operation: str

    def __str__(self) -> str:
        return f"{self.file}:{self.function}: {self.operation}"


class Waits:
    """What waited for the device: all of it, and what did so within the batches of :func:`baselines.common.training.train`."""

    def __init__(self) -> None:
        self.all: Counter[Place] = Counter()
        self.in_epochs: Counter[Place] = Counter()
        self.epochs = self.steps = 0

    def record(self, operation: str) -> None:
        ours = _our_frames()
        if not ours:
            return
        place = Place(*ours[0], operation)
        self.all[place] += 1
        functions = [name for _, name in ours]
        # Directly in the loop: the epoch's loss, read once. Paths are drawn between epochs.
        if functions[0] != "_run_epoch" and "_run_epoch" in functions and "Corpus._draw" not in functions:
            self.in_epochs[place] += 1

    def per_step(self) -> dict[str, int]:
        """Waits that come more often than once an epoch, as ``place`` -> how often in all."""
        return {str(place): n for place, n in sorted(self.in_epochs.items()) if n > self.epochs}


@contextmanager
def pretended() -> Iterator[Waits]:
    """Within the block ``"cuda"`` works as a device of this process."""
    waits, marks = Waits(), _Marks()
    state = torch.get_rng_state

    def epoch_of(run: Any) -> Any:
        def counted(model: Any, batches: Any, step: Any, *rest: Any) -> Any:
            def one(batch: Any) -> Any:
                waits.steps += 1
                return step(batch)

            waits.epochs += 1
            return _run_epoch(model, batches, one, *rest)

        _run_epoch = run
        return counted

    def grouped(tensors: Any, *rest: Any) -> Any:
        # The grouping is C++ and sees the CPU.
        found = group(tensors, *rest)
        return {
            (CUDA if marks.of(next(iter(lists[0]))) == DEVICE else at, kind): (lists, places)
            for (at, kind), (lists, places) in found.items()
        }

    group = clip_grad._group_tensors_by_device_and_dtype
    with ExitStack() as stack:
        stack.enter_context(patch.object(clip_grad, "_group_tensors_by_device_and_dtype", grouped))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        stack.enter_context(patch.object(torch.cuda, "get_rng_state", lambda device=None: state()))
        stack.enter_context(
            patch.object(torch.cuda, "set_rng_state", lambda new, device=None: torch.set_rng_state(new))
        )
        stack.enter_context(patch.object(torch.cuda, "get_device_capability", lambda device=None: (9, 0)))
        stack.enter_context(patch.object(Tensor, "pin_memory", _pinned))
        # Modes are a thread's own, so all is done by this one.
        stack.enter_context(patch.object(ThreadPoolExecutor, "submit", _at_once))
        stack.enter_context(
            patch.object(ThreadPoolExecutor, "map", lambda pool, run, *given: map(run, *given))
        )
        stack.enter_context(patch.object(training, "_run_epoch", epoch_of(training._run_epoch)))
        stack.enter_context(_Operations(marks, waits))
        stack.enter_context(_Calls(marks, waits))
        yield waits


class _Generator(torch.Generator):
    """A generator that says which device it was made for."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        made._wanted = torch.device(device)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._wanted


class _Marks:
    """Where a tensor's storage pretends to be. Storages are kept alive, so that no address is used twice."""

    def __init__(self) -> None:
        self._where: dict[int, tuple[str, Any]] = {}

    def of(self, value: Tensor) -> str | None:
        found = self._where.get(_inner(value).untyped_storage()._cdata)
        return found[0] if found else None

    def put(self, value: Any, where: str) -> Any:
        for one in _leaves(value):
            if isinstance(one, Tensor):
                inner = _inner(one)
                storage = inner.untyped_storage()
                self._where[storage._cdata] = (where, storage)
        return value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, dict):
        yield from _leaves(tuple(value.values()))
    else:
        yield value


def _inner(value: Tensor) -> Tensor:
    """The values of a sparse tensor, a strided tensor itself."""
    if value.layout in (torch.sparse_csr, torch.sparse_csc):
        return torch.ops.aten.values.default(value)
    if value.layout is torch.sparse_coo:
        return torch.ops.aten._values.default(value)
    return value


class _Calls(TorchFunctionMode):
    """Python's side: devices in arguments, attributes and conversions that name a device."""

    def __init__(self, marks: _Marks, waits: Waits) -> None:
        super().__init__()
        self.marks, self.waits = marks, waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        on_device = first is not None and self.marks.of(first) == DEVICE
        if on_device and func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return CUDA
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return on_device
        if first is not None and name in ("to", "cpu", "cuda", "copy_"):
            return self._moved(func, name, first, args[1:], kwargs)
        if on_device and name == "numpy":
            raise TypeError("can't convert cuda device type tensor to numpy")
        if on_device and name in ("tolist", "__array__"):
            self.waits.record(name)
        return self._made(func, name, args, kwargs)

    def _moved(
        self, func: Any, name: str, value: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        source = self.marks.of(value)
        if name == "copy_":
            other = rest[0]
            if DEVICE in (source, self.marks.of(other)) and source != self.marks.of(other):
                self._copied(
                    source == DEVICE, bool(kwargs.get("non_blocking") or (rest[1:] and rest[1])), other
                )
            return func(value, *rest, **kwargs)
        wanted: str | None = {"cpu": HOST, "cuda": DEVICE}.get(name)
        kept: list[Any] = []
        for one in rest:
            where = self._device_of(one)
            wanted, kept = (where, kept) if where else (wanted, [*kept, one])
        where = self._device_of(kwargs.pop("device", None))
        wanted = where or wanted
        if isinstance(rest[0] if rest else None, Tensor):
            kept.insert(0, rest[0].dtype)
        non_blocking = bool(kwargs.pop("non_blocking", False)) or True in [
            x for x in kept if isinstance(x, bool)
        ]
        kept = [one for one in kept if not isinstance(one, bool)]
        if wanted in (None, source) or (wanted == HOST and source is None):
            return func(value, *kept, **kwargs) if name == "to" and (kept or kwargs) else value
        self._copied(wanted == DEVICE, non_blocking, value)
        kwargs["copy"] = True
        return self.marks.put(value.to(*(kept or [value.dtype]), **kwargs), wanted)

    def _copied(self, to_device: bool, non_blocking: bool, value: Tensor) -> None:
        if to_device and non_blocking:
            return
        self.waits.record("copy to the device" if to_device else "copy to the host")

    def _device_of(self, one: Any) -> str | None:
        if isinstance(one, Tensor):
            return self.marks.of(one) or HOST
        if isinstance(one, str):
            one = torch.device(one)
        return {"cuda": DEVICE, "cpu": HOST}.get(one.type) if isinstance(one, torch.device) else None

    def _made(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        where = self._device_of(kwargs.get("device"))
        if where == DEVICE:
            kwargs["device"] = torch.device("cpu")
            if name in ("tensor", "as_tensor"):
                self.waits.record("copy to the device")
        result = func(*args, **kwargs)
        if where == DEVICE:
            return self.marks.put(result, DEVICE)
        # What Python makes without a device is the host's; what operations make inside may be either's.
        if isinstance(result, Tensor) and not any(isinstance(x, Tensor) for x in _leaves((args, kwargs))):
            self.marks.put(result, HOST)
        return result


class _Operations(TorchDispatchMode):
    """The operations' side, also those of autograd: marks pass through, and waits are recorded."""

    def __init__(self, marks: _Marks, waits: Waits) -> None:
        super().__init__()
        self.marks, self.waits = marks, waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in _leaves((args, kwargs)) if isinstance(x, Tensor)]
        where = [self.marks.of(x) for x in tensors]
        if DEVICE not in where:
            result = func(*args, **kwargs)
            if HOST in where:
                self.marks.put(result, HOST)
            return result
        name = str(func.overloadpacket)
        self._check(name, func, args, kwargs, tensors, where)
        result = func(*args, **kwargs)
        if name not in ("aten._foreach_add_", "aten._fused_adam_", "aten._fused_adamw_", "aten.copy_"):
            self.marks.put(result, DEVICE)
        return result

    def _check(self, name: str, func: Any, args: Any, kwargs: Any, tensors: Any, where: Any) -> None:
        if name in SYNCS or (name == "aten.repeat_interleave" and kwargs.get("output_size") is None):
            self.waits.record(name)
        elif name in ("aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"):
            indices = [x for x in args[1] if x is not None]
            one_value = name != "aten.index" and args[2].numel() == 1
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices) and not one_value:
                self.waits.record(f"{name} with a mask")
            if any(x.ndim and self.marks.of(x) == HOST for x in indices):
                self.waits.record(f"{name} with places on the host")
        elif not name.startswith("aten._foreach") and "copy" not in name:
            mixed = [x for x, place in zip(tensors, where, strict=True) if place == HOST and x.ndim]
            if mixed:
                raise RuntimeError(f"{name}: operands on cuda and on cpu")


def _at_once(pool: Any, run: Any, *given: Any) -> Future[Any]:
    done: Future[Any] = Future()
    done.set_result(run(*given))
    return done


def _pinned(value: Tensor, device: Any = None) -> Tensor:
    return value


def _our_frames() -> list[tuple[str, str]]:
    """(file, function) of the frames of this repository's packages, innermost first."""
    found = []
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        for package in ("baselines", "kpi_bench"):
            if file.startswith(str(ROOT / package)):
                found.append((str(Path(file).relative_to(ROOT)), frame.f_code.co_qualname))
        frame = frame.f_back  # type: ignore[assignment]
    return found
