"""Explanations on disk, beside the predictions that they explain: written by the child, checked by the parent.

``<prefix>.paths.parquet`` has one row a (user, item): the path as lists of its own length, h + 1 nodes and kinds, h relations and directions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kpi_bench._io import write_table
from kpi_bench._sorted import positions
from kpi_bench.errors import PredictionError
from kpi_bench.evaluators.explanations import INTERACTION, USER, Paths
from kpi_bench.harness.predictions import RankedLists, refuse
from kpi_bench.harness.protocol import RecommendationQueries
from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.task import RecommendationTask

D = TypeVar("D", bound=np.generic)

MAX_HOPS = 16
PATHS = pa.schema(
    [
        ("user", pa.int64()),
        ("item", pa.int64()),
        ("nodes", pa.list_(pa.int64())),
        ("kinds", pa.list_(pa.int8())),
        ("relations", pa.list_(pa.int64())),
        ("inverse", pa.list_(pa.bool_())),
        ("log_prob", pa.float32()),
    ]
)


def paths_file(prefix: Path) -> Path:
    """File of the explanations of one run; a run need not have it."""
    return prefix.with_name(f"{prefix.name}.paths.parquet")


def write_paths(prefix: Path, paths: Paths) -> Path:
    """Write what a submission explains; its form alone is checked here.

    Raises:
        PredictionError: no :class:`Paths`, or arrays whose shapes, types or padding do not fit together.
    """
    if not isinstance(paths, Paths):
        raise PredictionError(f"ExplainedTopK.paths is {type(paths).__name__}; wanted is kpi_bench.Paths")
    names = ("users", "items", "nodes", "kinds", "relations", "inverse", "log_probs")
    arrays: dict[str, NDArray[Any]] = {name: np.asarray(getattr(paths, name)) for name in names}
    _check_form(arrays)
    lengths = np.count_nonzero(arrays["kinds"] >= 0, axis=1)
    table = pa.table(
        [
            pa.array(arrays["users"].astype(np.int64)),
            pa.array(arrays["items"].astype(np.int64)),
            _lists(arrays["nodes"].astype(np.int64), lengths),
            _lists(arrays["kinds"].astype(np.int8), lengths),
            _lists(arrays["relations"].astype(np.int64), np.maximum(lengths - 1, 0)),
            _lists(arrays["inverse"], np.maximum(lengths - 1, 0)),
            # A double beyond float32 becomes infinite, which the parent refuses with its place.
            pa.array(arrays["log_probs"].astype(np.float64)).cast(pa.float32(), safe=False),
        ],
        schema=PATHS,
    )
    write_table(paths_file(prefix), table)
    return paths_file(prefix)


def _check_form(arrays: dict[str, NDArray[Any]]) -> None:
    nodes, kinds = arrays["nodes"], arrays["kinds"]
    n, width = len(arrays["users"]) if arrays["users"].ndim == 1 else -1, nodes.shape[-1] if nodes.ndim else 0
    wanted = {
        **dict.fromkeys(("users", "items", "log_probs"), (n,)),
        **dict.fromkeys(("nodes", "kinds"), (n, width)),
        **dict.fromkeys(("relations", "inverse"), (n, width - 1)),
    }
    if width < 2 or any(arrays[name].shape != shape for name, shape in wanted.items()):
        found = ", ".join(f"{name} {arrays[name].shape}" for name in wanted)
        raise PredictionError(
            f"Paths has {found}; wanted is n for users, items and log_probs, (n, h + 1) for nodes and kinds, (n, h) for relations and inverse, h at least 1"
        )
    types = dict.fromkeys(("users", "items", "nodes", "kinds", "relations"), np.integer)
    for name, kind in {**types, "inverse": np.bool_, "log_probs": np.floating}.items():
        if not np.issubdtype(arrays[name].dtype, kind):
            raise PredictionError(
                f"Paths.{name} is {arrays[name].dtype}; wanted is a type of {kind.__name__}"
            )
    given = kinds >= 0
    problems: list[str] = []
    for wrong, rule in (
        (((kinds < -1) | (kinds > USER)).any(axis=1), f"kind is outside -1..{USER}"),
        ((given[:, 1:] & ~given[:, :-1]).any(axis=1), "a node follows the padding (kind -1)"),
    ):
        if wrong.any():
            first = int(np.argmax(wrong))
            problems.append(
                f"{rule}: {np.count_nonzero(wrong)} path(s), first at row {first}: user {arrays['users'][first]}, item {arrays['items'][first]}"
            )
    refuse("Paths", problems, what="explanations")


def _lists(values: NDArray[Any], lengths: NDArray[np.int64]) -> pa.ListArray:
    """The first ``lengths[i]`` values of each row as a list."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise PredictionError(f"Paths has {offsets[-1]} nodes; wanted are at most {np.iinfo(np.int32).max}")
    kept = values[np.arange(values.shape[1]) < lengths[:, None]]
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(kept))


def read_paths(
    path: Path,
    task: RecommendationTask,
    queries: RecommendationQueries,
    lists: RankedLists,
    graph: KnowledgeGraph,
) -> Paths:
    """Read and check the explanations of ``lists``. Whether a path is true is not looked at: the scorer counts those that are not.

    Raises:
        PredictionError: lists every broken rule with its count and first offender.
    """
    table = _read(path)
    user, item = table.column("user").to_numpy(), table.column("item").to_numpy()
    log_prob = table.column("log_prob").to_numpy().astype(np.float32)
    lengths, flat = {}, {}
    for name in ("nodes", "kinds", "relations", "inverse"):
        lengths[name] = pc.list_value_length(table.column(name)).to_numpy().astype(np.int64)
        flat[name] = pc.list_flatten(table.column(name)).to_numpy()
    problems: list[str] = []

    def check(wrong: NDArray[np.bool_], rule: str) -> bool:
        if wrong.any():
            first = int(np.argmax(wrong))
            problems.append(
                f"{rule}: {np.count_nonzero(wrong)} row(s), first at row {first}: user {user[first]}, item {item[first]}"
            )
        return not wrong.any()

    check(~np.isin(user, queries.users), "user was not asked about")
    known = (user >= 0) & (user < task.n_users)
    if check((item < 0) | (item >= task.n_items), f"item is outside 0..{task.n_items - 1}"):
        listed = np.sort(lists.users * task.n_items + lists.items)
        pairs = np.where(known, user, 0) * task.n_items + item
        check(known & (positions(listed, pairs) < 0), "item is not recommended to the user")
    check(
        pd.DataFrame({"u": user, "i": item}).duplicated().to_numpy(),
        "the item is explained to the user before",
    )
    check(~np.isfinite(log_prob), "log_prob is NaN, infinite or beyond float32")
    hops = lengths["nodes"] - 1
    sound = check(hops < 1, "path has no hop")
    sound &= check(hops > MAX_HOPS, f"path has more than {MAX_HOPS} hops")
    sound &= check(
        (lengths["kinds"] != hops + 1) | (lengths["relations"] != hops) | (lengths["inverse"] != hops),
        "lists do not fit: wanted are h + 1 nodes and kinds, h relations and directions",
    )
    if sound:
        of_node, of_hop = np.repeat(np.arange(len(user)), hops + 1), np.repeat(np.arange(len(user)), hops)
        limits = np.array([graph.n_entities, task.n_items, task.n_users])
        kinds, nodes, relations = flat["kinds"], flat["nodes"], flat["relations"]
        named = (kinds >= 0) & (kinds <= USER)
        beyond = named & ((nodes < 0) | (nodes >= limits[np.where(named, kinds, 0)]))
        unrelated = (relations < INTERACTION) | (relations >= graph.n_relations)
        check(_any(~named, of_node, len(user)), f"kind is outside 0..{USER}")
        check(
            _any(beyond, of_node, len(user)),
            f"node is outside its kind's ids (entities 0..{limits[0] - 1}, items 0..{limits[1] - 1}, users 0..{limits[2] - 1})",
        )
        check(
            _any(unrelated, of_hop, len(user)), f"relation is outside {INTERACTION}..{graph.n_relations - 1}"
        )
    refuse(str(path), problems, what="explanations")
    width = int(hops.max(initial=1))
    return Paths(
        user,
        item,
        _padded(flat["nodes"], hops + 1, width + 1, -1),
        _padded(flat["kinds"].astype(np.int8), hops + 1, width + 1, -1),
        _padded(flat["relations"], hops, width, INTERACTION),
        _padded(flat["inverse"], hops, width, False),
        log_prob,
    )


def _any(wrong: NDArray[np.bool_], rows: NDArray[np.int64], n_rows: int) -> NDArray[np.bool_]:
    """Which of ``n_rows`` rows own something wrong."""
    owners = np.zeros(n_rows, dtype=bool)
    owners[rows[wrong]] = True
    return owners


def _padded(values: NDArray[D], lengths: NDArray[np.int64], width: int, fill: int) -> NDArray[D]:
    """Lists as rows of ``width``, ``fill`` behind each list's end."""
    rows = np.full((len(lengths), width), fill, dtype=values.dtype)
    rows[np.arange(width) < lengths[:, None]] = values
    return rows


def _read(path: Path) -> pa.Table:
    """The table with integers as int64, whatever integers the file has."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise PredictionError(f"{path}: cannot be read as Parquet: {error}") from error
    if sorted(table.column_names) != sorted(PATHS.names):
        raise PredictionError(
            f"{path}: columns are {', '.join(table.column_names)}; wanted are {', '.join(PATHS.names)}"
        )
    columns = []
    for field in PATHS:
        column = table.column(field.name)
        if not _fits(column.type, field.type) or column.null_count or _inner(column).null_count:
            raise PredictionError(
                f"{path}: {field.name} is {column.type}; wanted is {field.type} without nulls"
            )
        wide = {pa.int8(): pa.int64(), pa.list_(pa.int8()): pa.list_(pa.int64())}.get(field.type, field.type)
        try:
            columns.append(column.cast(wide, safe=wide != pa.float32()))
        except pa.ArrowInvalid as error:
            raise PredictionError(f"{path}: {field.name} holds what is no {wide}: {error}") from error
    return pa.table(columns, names=PATHS.names)


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(wanted):
        listed = pa.types.is_list(found) or pa.types.is_large_list(found)
        return listed and _fits(found.value_type, wanted.value_type)
    for family in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean):
        if family(wanted):
            return bool(family(found))
    return False


def _inner(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.list_flatten(column) if pa.types.is_nested(column.type) else column
