"""kpi-bench: the place where knowledge-graph pre-training methods are judged.

The names below are the public surface that submissions and scripts use.
"""

from kpi_bench._csr import Csr
from kpi_bench._version import __version__
from kpi_bench.errors import KpiBenchError
from kpi_bench.evaluators.explanations import ExplainedTopK, Paths
from kpi_bench.evaluators.ranking import TopK, top_k_from_factors, top_k_from_scores
from kpi_bench.harness.protocol import (
    ClassificationQueries,
    Context,
    LinkPredictionQueries,
    Predictions,
    Queries,
    RecommendationQueries,
    Submission,
)
from kpi_bench.suites.graph import Adjacency, KnowledgeGraph
from kpi_bench.suites.links import align_by_name, links_between
from kpi_bench.suites.load import load_suite
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import (
    ClassificationTask,
    Examples,
    Interactions,
    LinkPredictionTask,
    RecommendationTask,
    Task,
    TaskKind,
    TaskSpec,
    Triples,
)

__all__ = [
    "Adjacency",
    "ClassificationQueries",
    "ClassificationTask",
    "Context",
    "Csr",
    "Examples",
    "ExplainedTopK",
    "Interactions",
    "KnowledgeGraph",
    "KpiBenchError",
    "LinkPredictionQueries",
    "LinkPredictionTask",
    "Paths",
    "Predictions",
    "Queries",
    "RecommendationQueries",
    "RecommendationTask",
    "Submission",
    "Suite",
    "Task",
    "TaskKind",
    "TaskSpec",
    "TopK",
    "Triples",
    "__version__",
    "align_by_name",
    "links_between",
    "load_suite",
    "top_k_from_factors",
    "top_k_from_scores",
]
