"""Pins of the official suites: what a suite of this name and version must contain, value for value."""

from __future__ import annotations

from kpi_bench.errors import SuiteError
from kpi_bench.suites.manifest import Manifest

# Manifest.digest by name@version; independent of the Parquet writer, so a rebuild elsewhere has the same digest.
OFFICIAL_DIGESTS: dict[str, str] = {
    "kpi-mini@1.0.0": "d70223614aeca4be4a1bb0b803b1a76b908a555d446151d1c2150a1f70a3ef0a",
    "kpi-open@1.0.0": "db77eae3d171074d6e9e6ee419bda0fb52edf533373054868936903a3d277817",
    "kpi-public@1.0.0": "9d0206b3af4cf6a0ea4a7be568caa15053722b2f0659c2ddae1f3111ee895ff3",
    "fb15k-237@1.0.0": "1f9f8045b473c9a5614022aebf1fba4367edd6efa81bd0dcc4c13749c1dbc723",
    "wn18rr@1.0.0": "a44ea598bb7d84c4458a1e1f2f9636dca9ecbe0075aa4a727b0750babf88f277",
    "db15k@1.0.0": "2e8ad269490a90cdad0249cd387e528fcf58f79eb3250bfe47f4534a9a9e43e1",
    "fb15k-237-db15k@1.0.0": "f7a3b4b8a36698417314e74a51da662c77e64491ba415b1bbc396cab8e44064e",
    "codex-s@1.0.0": "7bd36be35a886b7e4933e7e4ba22f6a333ff9bda81dc2f663aebad8b204fff62",
    "ml-100k@1.0.0": "21f14701895c8d98b544177da915d881aef81107cb87a93e04d264cbad635224",
}


def official_digest(manifest: Manifest) -> str | None:
    """The pinned digest of this name and version, None for a suite that is not official."""
    return OFFICIAL_DIGESTS.get(f"{manifest.name}@{manifest.version}")


def check_official(manifest: Manifest, where: str) -> None:
    """Refuse a suite that bears an official name and version but has other contents.

    The copy handed to submissions is let through: it lacks the test labels, so nothing can be scored on it.

    Raises:
        SuiteError: the digest differs from the pin.
    """
    pinned = official_digest(manifest)
    if pinned is not None and not manifest.withheld and manifest.digest != pinned:
        raise SuiteError(
            f"{where} calls itself {manifest.name} {manifest.version}, but its contents are not those of the official suite "
            f"(digest {manifest.digest}, pinned {pinned}). Fetch or build it again; a changed suite needs another name or version."
        )
