"""The only package that talks to the Hugging Face Hub."""

from kpi_bench.hub.fetch import RESULT_FILES, SUITE_FILES, fetch_dataset
from kpi_bench.hub.repository import Published, Repository, Upload
from kpi_bench.hub.retry import Patience

__all__ = [
    "RESULT_FILES",
    "SUITE_FILES",
    "Patience",
    "Published",
    "Repository",
    "Upload",
    "fetch_dataset",
]
