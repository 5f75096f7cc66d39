"""Audit of links: do the triples of another KG, read over its links, say what a task asks for?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kpi_bench.suites._finding import Finding, graded
from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.links import joined, links_between, over_links
from kpi_bench.suites.task import LinkPredictionTask


def audit_links(
    task: LinkPredictionTask, graph: KnowledgeGraph, others: Sequence[KnowledgeGraph]
) -> list[Finding]:
    """Held-out triples whose two ends a triple of a linked KG joins, by any relation and in either direction.

    ``graph`` is the task's KG; links count whichever side states them. Without a linked KG there is nothing to find, and no finding.
    """
    said = {}
    for other in others:
        links = links_between(other, graph)
        if len(links):
            triples = pd.DataFrame({"head": other.heads, "tail": other.tails})
            said[other.name] = over_links(triples, links)
    findings = []
    for name, split in {"valid": task.valid, "test": task.test}.items():
        if split is None or not said:
            continue
        ends = pd.DataFrame({"head": split.heads, "tail": split.tails})
        reached = {kg: joined(ends, by) for kg, by in said.items()}
        count = int(np.any(list(reached.values()), axis=0).sum())
        shown = "; ".join(f"KG {kg} ({int(mask.sum()):,})" for kg, mask in reached.items())
        check = f"{name} pairs joined in a linked KG"
        detail = f"{name} triples whose two ends are linked to two entities of one triple, in either direction: {shown}"
        findings.append(Finding(task.spec.name, check, graded("leak", count), count, len(split), detail))
    return findings
