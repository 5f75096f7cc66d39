"""Commands that build, examine and publish suites."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kpi_bench.cli.hub import add_endpoint


def add_data(commands: Any) -> None:
    """``kpi-bench data build``, ``stats``, ``verify``, ``audit`` and ``push``."""
    from kpi_bench.suites.recipes import RECIPES

    group = commands.add_parser("data", help="build, verify, examine and publish suites").add_subparsers(
        required=True, metavar="ACTION"
    )
    build = group.add_parser("build", help="build a suite with a recipe")
    build.add_argument("recipe", choices=sorted(RECIPES))
    build.add_argument(
        "--raw", type=Path, help="folder with the raw files (docs/data.md); not needed for kpi-mini"
    )
    build.add_argument("--out", type=Path, required=True, help="new folder for the suite")
    build.set_defaults(run=_data_build)
    for name, text, action in (
        ("stats", "sizes and coverage", _data_stats),
        ("verify", "check files against the manifest and the rules", _data_verify),
        (
            "audit",
            "look for leaks: duplicates, contradictory labels, inverse relations, hubs, coverage",
            _data_audit,
        ),
    ):
        command = group.add_parser(name, help=text)
        command.add_argument("suite", help="kpi-mini, a suite's folder, or hf://OWNER/NAME@<40-hex revision>")
        if name != "verify":
            command.add_argument("--json", type=Path, metavar="FILE", help="also write it as JSON")
        command.set_defaults(run=action)
    push = group.add_parser(
        "push", help="publish a suite as one commit of a Hub dataset repository, and tag it"
    )
    push.add_argument("folder", type=Path, metavar="DIR", help="the suite's folder")
    push.add_argument(
        "--repo", required=True, metavar="OWNER/NAME", help="dataset repository, made if absent"
    )
    push.add_argument(
        "--private", action="store_true", help="make a private repository (an existing one stays as it is)"
    )
    push.add_argument("--tag", help="name of the version (default v<version of the suite>)")
    add_endpoint(push)
    push.set_defaults(run=_data_push)


def _data_push(options: argparse.Namespace) -> int:
    from kpi_bench.publish import push_suite

    done = push_suite(
        options.folder, options.repo, private=options.private, tag=options.tag, endpoint=options.endpoint
    )
    state = "published" if done.changed else "already there, nothing was sent"
    print(f"{options.repo} {done.tag}: {state}\nrevision {done.revision}")
    print(f'load it with: kpi_bench.load_suite("{done.address}"), or --suite {done.address}')
    return 0


def _data_build(options: argparse.Namespace) -> int:
    from kpi_bench.suites.recipes import build_suite

    manifest = build_suite(options.recipe, options.raw, options.out)
    size = sum(entry.bytes for entry in manifest.files.values())
    print(
        f"built {manifest.name} {manifest.version} in {options.out}: {len(manifest.files)} files, {size / 1e6:.1f} MB, digest {manifest.digest}"
    )
    return 0


def _data_stats(options: argparse.Namespace) -> int:
    from kpi_bench.suites.load import load_suite
    from kpi_bench.suites.stats import suite_stats

    stats = suite_stats(load_suite(options.suite))
    _emit(stats.render(), stats.to_json(), options.json)
    return 0


def _data_verify(options: argparse.Namespace) -> int:
    from kpi_bench.suites.load import load_suite

    suite = load_suite(options.suite)
    rows = sum(entry.rows for entry in suite.manifest.files.values())
    print(
        f"{suite.name} {suite.manifest.version}: {len(suite.manifest.files)} files and {rows:,} rows are as the manifest says; digest {suite.manifest.digest}"
    )
    return 0


def _data_audit(options: argparse.Namespace) -> int:
    from kpi_bench.suites.audit import audit_suite, findings_json, render_findings
    from kpi_bench.suites.load import load_suite

    findings = audit_suite(load_suite(options.suite))
    _emit(render_findings(findings), findings_json(findings), options.json)
    return 0


def _emit(text: str, value: Any, path: Path | None) -> None:
    from kpi_bench._io import write_json

    print(text)
    if path is not None:
        write_json(path, value)
