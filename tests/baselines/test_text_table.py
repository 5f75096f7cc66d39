"""The table of text features: equal to a plain encode, shared pages, and a cache that never answers with anything else."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from baselines.common import text_encoder
from baselines.common.encoders import HashedEncoder
from baselines.common.text_encoder import Block
from baselines.common.text_table import TextFeatures, text_features
from kpi_bench.errors import SubmissionError

TEXTS = ["a good game", "", "never", "a good game", "音乐很好", "", "for the whole family"]
SPAWN = multiprocessing.get_context("spawn")


def counted(texts: list[str], cache: Path | None, dim: int = 32) -> tuple[TextFeatures, int]:
    """The features and how many rows were computed for them."""
    rows = 0

    def count(blocks: Iterable[Block]) -> Iterator[Block]:
        nonlocal rows
        for block in blocks:
            rows += len(block[0])
            yield block

    return text_features(texts, HashedEncoder(dim), cache=cache, progress=count), rows


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("texts", [TEXTS, [], [""], ["one"], ["same"] * 9, ["", "", "x"]])
def test_a_table_is_what_the_encoder_gives(texts: list[str], cached: bool, tmp_path: Path) -> None:
    expected = HashedEncoder(32).encode(texts)
    cache = tmp_path / "new" / "folder" if cached else None
    first, computed = counted(texts, cache)
    assert computed == len(set(texts))
    assert torch.equal(first.vectors, expected)
    assert first.vectors.dtype == torch.float32
    assert first.vectors.is_contiguous()
    assert not first.cached
    second, computed = counted(texts, cache)
    assert computed == (0 if cached else len(set(texts)))
    assert torch.equal(second.vectors, expected)
    assert second.cached == cached
    assert not cached or second.seconds == first.seconds
    assert names(tmp_path) == (["new"] if cached else [])


def test_an_entry_is_a_plain_npy_and_says_what_it_cost(tmp_path: Path) -> None:
    features = text_features(TEXTS, HashedEncoder(32), cache=tmp_path)
    facts, table = (tmp_path / name for name in names(tmp_path))
    assert np.array_equal(np.load(table), features.vectors.numpy())
    assert json.loads(facts.read_text()) == {"encoder": "hashed", "seconds": features.seconds}
    assert features.seconds > 0
    assert facts.stem == table.stem
    assert len(table.stem) == 64


def test_repeated_rows_are_copied_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "VALUES_PER_BLOCK", 64)
    texts = [f"text {i % 7}" for i in range(100)]
    expected = torch.stack([HashedEncoder(32).encode([text])[0] for text in texts])
    assert torch.equal(text_features(texts, HashedEncoder(32), cache=tmp_path).vectors, expected)


def test_vectors_are_file_backed_shared_and_raise_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = text_features(TEXTS, HashedEncoder(32), cache=tmp_path).vectors
        found = text_features(TEXTS, HashedEncoder(32), cache=tmp_path).vectors
    maps = Path(f"/proc/{os.getpid()}/maps")
    if maps.exists():
        assert sum(str(tmp_path) in line for line in maps.read_text().splitlines()) == 2
    expected = found.clone()
    vectors[0] = 7  # Stays in this tensor: the file and what others map do not see it.
    assert torch.equal(found, expected)
    again = text_features(TEXTS, HashedEncoder(32), cache=tmp_path)
    assert again.cached
    assert torch.equal(again.vectors, expected)


def test_vectors_outlive_the_folder(tmp_path: Path) -> None:
    vectors = text_features(TEXTS, HashedEncoder(32), cache=tmp_path).vectors
    expected = HashedEncoder(32).encode(TEXTS)
    for path in tmp_path.iterdir():
        path.unlink()
    gc.collect()
    assert torch.equal(vectors, expected)


def test_other_texts_another_order_and_another_encoder_miss(tmp_path: Path) -> None:
    cases = [
        (["ab", "c"], 32),
        (["a", "bc"], 32),
        (["c", "ab"], 32),
        (["ab", "c", ""], 32),
        (["ab", "d"], 32),
        (["ab", "c"], 33),
    ]
    for texts, dim in cases:
        features, _ = counted(texts, tmp_path, dim)
        assert not features.cached
        assert torch.equal(features.vectors, HashedEncoder(dim).encode(texts))
    assert len(names(tmp_path)) == 2 * len(cases)
    assert all(counted(texts, tmp_path, dim)[0].cached for texts, dim in cases)


DAMAGE = {
    "truncated": lambda table, facts: os.truncate(table, table.stat().st_size - 1),
    "longer": lambda table, facts: table.write_bytes(table.read_bytes() + b"\0"),
    "empty": lambda table, facts: table.write_bytes(b""),
    "other magic": lambda table, facts: table.write_bytes(b"PK" + table.read_bytes()[2:]),
    "other shape": lambda table, facts: np.save(table, np.zeros((32, 7), np.float32)),
    "other order": lambda table, facts: np.save(table, np.zeros((7, 32), np.float32, order="F")),
    "other type": lambda table, facts: np.save(table, np.zeros((7, 32), np.int32)),
    "no table": lambda table, facts: table.unlink(),
    "no facts": lambda table, facts: facts.unlink(),
    "facts cut": lambda table, facts: os.truncate(facts, 5),
    "other facts": lambda table, facts: facts.write_text("[1]"),
    "facts of another": lambda table, facts: facts.write_text('{"encoder": "hashed"}'),
    "binary facts": lambda table, facts: facts.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_again(damage: str, tmp_path: Path) -> None:
    expected = text_features(TEXTS, HashedEncoder(32), cache=tmp_path).vectors.clone()
    before = names(tmp_path)
    facts, table = (tmp_path / name for name in before)
    DAMAGE[damage](table, facts)
    features, computed = counted(TEXTS, tmp_path)
    assert computed == len(set(TEXTS))
    assert torch.equal(features.vectors, expected)
    assert counted(TEXTS, tmp_path)[0].cached
    assert names(tmp_path) == before


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(blocks: Iterable[Block]) -> Iterator[Block]:
        yield from blocks
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        text_features(TEXTS, HashedEncoder(32), cache=tmp_path, progress=interrupt)
    assert names(tmp_path) == []


def test_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(SubmissionError, match=r"file of .* MB"):
            text_features(TEXTS, HashedEncoder(32), cache=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == []


def _killed(cache: Path) -> None:
    def kill(blocks: Iterable[Block]) -> Iterator[Block]:
        yield next(iter(blocks))
        os.kill(os.getpid(), signal.SIGKILL)

    text_features(TEXTS, HashedEncoder(32), cache=cache, progress=kill)


def test_a_killed_writer_leaves_no_entry(tmp_path: Path) -> None:
    process = SPAWN.Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".")
    features, computed = counted(TEXTS, tmp_path)
    assert computed == len(set(TEXTS))
    assert torch.equal(features.vectors, HashedEncoder(32).encode(TEXTS))


def _together(cache: Path, barrier: Barrier) -> tuple[bool, list[list[float]]]:
    def wait(blocks: Iterable[Block]) -> Iterator[Block]:
        barrier.wait(60)  # Both have found nothing and hold a file of their own.
        yield from blocks

    features = text_features(TEXTS, HashedEncoder(32), cache=cache, progress=wait)
    barrier.wait(60)  # Both have renamed; the first one's file has lost its name.
    return features.cached, features.vectors.tolist()


def _answer(cache: Path, barrier: Barrier, answer: Connection) -> None:
    answer.send(_together(cache, barrier))


def test_two_writers_at_once_both_end_well(tmp_path: Path) -> None:
    barrier = SPAWN.Barrier(2)
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_answer, args=(tmp_path, barrier, sender))
    process.start()
    here = _together(tmp_path, barrier)
    assert receiver.poll(60)
    there = receiver.recv()
    process.join()
    expected = HashedEncoder(32).encode(TEXTS)
    assert here == there == (False, expected.tolist())
    features, computed = counted(TEXTS, tmp_path)
    assert (features.cached, computed, len(names(tmp_path))) == (True, 0, 2)
    assert torch.equal(features.vectors, expected)


N, DIM = 200_000, 256


def _anonymous() -> int:
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def _peak(cache: Path, answer: Connection) -> None:
    torch.set_num_threads(1)
    texts = [f"item {i % 150_000}" for i in range(N)]
    HashedEncoder(DIM).encode(texts[:100])  # What the libraries take once.
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch)
    gc.collect()
    start = _anonymous()
    watcher.start()
    features = text_features(texts, HashedEncoder(DIM), cache=cache)
    total = float(torch.linalg.vector_norm(features.vectors, dim=1).sum())  # Reads all of it, copies nothing.
    done.set()
    watcher.join()
    answer.send((peak - start, _anonymous() - start, total))


@pytest.mark.skipif(not hasattr(psutil.Process().memory_info(), "shared"), reason="needs Linux's counters")
def test_memory_grows_by_a_block_and_not_by_the_table(tmp_path: Path) -> None:
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_peak, args=(tmp_path, sender))
    process.start()
    assert receiver.poll(60)
    peak, after, total = receiver.recv()
    process.join()
    table = N * DIM * 4
    assert total == pytest.approx(N, rel=1e-3)  # Unit rows, all there.
    assert (tmp_path / names(tmp_path)[1]).stat().st_size == table + 128
    assert 0 < peak < table / 3
    assert after < table / 4
