"""The board as a static site: pages that open from a file, from any host and as a static Space, without a server.

Importing this package without the extra ``[site]`` raises :class:`kpi_bench.errors.ResultError`.
"""

from importlib.util import find_spec

from kpi_bench.errors import ResultError

for _needed in ("altair", "vl_convert"):
    if find_spec(_needed) is None:
        raise ResultError(f"pages and plots need {_needed}: pip install 'kpi-bench[site]'")

from kpi_bench.leaderboard.site.build import SiteReport, build_site  # noqa: E402

__all__ = ["SiteReport", "build_site"]
