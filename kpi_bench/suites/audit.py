"""Look for what makes scores on a suite mean less than they seem: leaks, repeats, contradictions, cold items, missing coverage.

``verify`` says whether a suite keeps the format's rules; the audit says what its data are like. It changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from tabulate import tabulate

from kpi_bench.suites._audit_graph import audit_graph, audit_triples, related_relations
from kpi_bench.suites._audit_links import audit_links
from kpi_bench.suites._audit_tasks import audit_examples, audit_interactions
from kpi_bench.suites._finding import Finding, Severity, graded
from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import (
    ClassificationTask,
    Examples,
    Interactions,
    LinkPredictionTask,
    RecommendationTask,
    Split,
    Task,
)

__all__ = [
    "Finding",
    "Severity",
    "audit_examples",
    "audit_graph",
    "audit_held_out",
    "audit_interactions",
    "audit_links",
    "audit_suite",
    "audit_task",
    "audit_triples",
    "findings_json",
    "related_relations",
    "render_findings",
]


def audit_suite(suite: Suite) -> list[Finding]:
    """Audit every KG and task of a suite. Splits that are withheld are passed over.

    Raises:
        SuiteError: a table is missing or unreadable.
    """
    findings: list[Finding] = []
    for name in suite.graph_names():
        graph = suite.graph(name)
        triples = pd.DataFrame({"head": graph.heads, "relation": graph.relations, "tail": graph.tails})
        names = graph.entities.column("name").to_pylist()
        entities = [known or key for known, key in zip(names, graph.entity_keys(), strict=True)]
        relations = graph.relation_table.column("name").to_pylist()
        findings += audit_graph(f"KG {name}", triples, entities, relations)
    for name in suite.task_names():
        task = suite.task(name)
        findings += audit_task(task)
        if isinstance(task, LinkPredictionTask):
            graph = suite.graph(task.spec.kg)
            others = [suite.graph(other) for other in suite.graph_names() if other != graph.name]
            findings += [*audit_held_out(task, graph), *audit_links(task, graph, others)]
    return findings


def audit_task(task: Task) -> list[Finding]:
    """Audit one task by its kind."""
    named: Mapping[str, Split | None] = {"train": task.train, "valid": task.valid, "test": task.test}
    splits = {name: _frame(split) for name, split in named.items() if split is not None}
    if isinstance(task, RecommendationTask):
        return audit_interactions(task.spec.name, splits, task.item_entity)
    if isinstance(task, ClassificationTask):
        return audit_examples(task.spec.name, splits)
    return audit_triples(task.spec.name, splits)


def audit_held_out(task: LinkPredictionTask, graph: KnowledgeGraph) -> list[Finding]:
    """Triples to be predicted that the task's KG states already: what is handed to pre-training must hold none of them."""
    known = pd.MultiIndex.from_arrays([graph.heads, graph.relations, graph.tails])
    held_out = {"valid": task.valid, "test": task.test}
    return [
        Finding(
            task.spec.name,
            f"{name} triples in the KG",
            graded("leak", found),
            found,
            len(split),
            f"KG {graph.name}, which submissions pre-train on",
        )
        for name, split in held_out.items()
        if split is not None
        for found in [
            int(pd.MultiIndex.from_arrays([split.heads, split.relations, split.tails]).isin(known).sum())
        ]
    ]


def render_findings(findings: Iterable[Finding]) -> str:
    """Findings as a text table, with a line that counts them by severity."""
    found = list(findings)
    rows = [
        (f.severity, f.subject, f.check, f"{f.count:,}", f"{f.total:,}", f"{f.share:.1%}", f.detail)
        for f in found
    ]
    headers = ("severity", "subject", "check", "count", "of", "share", "what")
    counts = ", ".join(
        f"{severity} {sum(f.severity == severity for f in found)}" for severity in ("leak", "warning", "info")
    )
    return f"{tabulate(rows, headers=headers, disable_numparse=True)}\n\n{counts}"


def findings_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as rows of plain values, for ``json.dump``."""
    return [{**dataclasses.asdict(finding), "share": finding.share} for finding in findings]


def _frame(split: Split) -> pd.DataFrame:
    if isinstance(split, Interactions):
        columns = {"user": split.users, "item": split.items}
        return pd.DataFrame(columns if split.times is None else {**columns, "time": split.times})
    if isinstance(split, Examples):
        return pd.DataFrame({"entity": split.entities, "text": split.texts, "label": split.labels})
    return pd.DataFrame({"head": split.heads, "relation": split.relations, "tail": split.tails})
