"""Suites and results to the Hub and back."""

from kpi_bench.publish.model import push_model
from kpi_bench.publish.pull import Pulled, pull_results
from kpi_bench.publish.results import Parcel, pack_results, push_results
from kpi_bench.publish.suite import PublishedSuite, push_suite

__all__ = [
    "Parcel",
    "PublishedSuite",
    "Pulled",
    "pack_results",
    "pull_results",
    "push_model",
    "push_results",
    "push_suite",
]
