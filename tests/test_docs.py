"""The documents say what is true of the code: pages, links, commands, names and examples."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import kpi_bench
from kpi_bench.cli import _parser, main
from kpi_bench.leaderboard import update_file

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ELSEWHERE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
TEXTS = [*PAGES, *ELSEWHERE, *sorted(ROOT.glob("submissions/*/README.md"))]

FENCE = re.compile(r"^(```+)(\w*)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^\s*(?:\$ )?(?:\w+=\S+ )*(?:\.venv/bin/)?kpi-bench (.*)")


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """The text of a document without its code blocks."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def anchors(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub and the site make them."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", prose(path), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", ""))
        found.append(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    # The second of two equal headings gets another suffix on GitHub than on the site: neither may be linked to.
    return {anchor for anchor in found if found.count(anchor) == 1}


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without making the objects that it names."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def nav() -> Iterator[str]:
    def walk(entries: list[Any]) -> Iterator[str]:
        for entry in entries:
            for target in entry.values():
                yield from [target] if isinstance(target, str) else walk(target)

    return walk(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"])


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(nav()) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("path", TEXTS, ids=shown)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(prose(path)):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


# ------------------------------------------------------------------------------------------------------------ commands


def command_lines(path: Path) -> list[str]:
    """Commands of a document's code blocks, which must be complete."""
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    lines += [
        line for _, language, code in FENCE.findall(text) if language != "text" for line in code.splitlines()
    ]
    return [match.group(1) for line in lines if (match := COMMAND.match(line))]


def mentions(path: Path) -> list[str]:
    """Commands in running text, which may leave out arguments."""
    return [
        code.removeprefix("kpi-bench ")
        for code in INLINE.findall(prose(path))
        if code.startswith("kpi-bench ")
    ]


def words(command: str) -> list[str]:
    """Arguments of a command; of a synopsis with everything optional given and the first of each choice."""
    parts = [part.strip("[]") for part in shlex.split(command.replace("\\|", "|"), comments=True)]
    return [part.split("|")[0].removesuffix("...") for part in parts if part not in ("...", "")]


def subparser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser of the command that the arguments name.

    Raises:
        KeyError: there is no such command.
    """
    parser, rest = _parser(), list(arguments)
    while rest and (groups := [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]):
        if rest[0].startswith("-"):
            break
        parser = groups[0].choices[rest.pop(0)]
    return parser


def complaint(arguments: list[str]) -> str:
    """What the real parser says against the arguments; nothing when it takes them."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            _parser().parse_args(arguments)
        except SystemExit as ended:
            return said.getvalue().strip().rpartition("error: ")[2] if ended.code else ""
    return ""


@pytest.mark.parametrize("path", [path for path in TEXTS if command_lines(path)], ids=shown)
def test_command_lines_parse(path: Path) -> None:
    stale = {}
    for command in command_lines(path):
        # A capital word where the parser wants one of several names: the reader is to choose.
        arguments = words(command)
        said = complaint(arguments)
        chosen = re.search(r"invalid choice: '([A-Z]+)' \(choose from '?([\w-]+)", said)
        if chosen:
            said = complaint([chosen.group(2) if word == chosen.group(1) else word for word in arguments])
        if said and "--format: expected one argument" not in said:
            stale[command] = said
    assert stale == {}


@pytest.mark.parametrize("path", [path for path in TEXTS if mentions(path)], ids=shown)
def test_mentioned_commands_and_options_exist(path: Path) -> None:
    stale = []
    for command in mentions(path):
        for row in alternatives(command):
            try:
                known = subparser(row)._option_string_actions
            except KeyError:
                stale.append(command)
                continue
            stale += [command for word in row if word.startswith("--") and word not in known]
    assert stale == []


def alternatives(command: str) -> list[list[str]]:
    """A mention such as ``data build|verify DIR`` as one row of arguments for each of its commands."""
    first, *rest = command.replace("\\|", "|").split()
    if first == "COMMAND":
        return []
    grouped = rest and "|" in rest[0]
    return [
        words(" ".join([first, *([one, *rest[1:]] if grouped else rest)]))
        for one in (rest[0].split("|") if grouped else "-")
    ]


def test_a_stale_command_is_noticed() -> None:
    assert "unrecognized arguments: --speed 9" in complaint(words("leaderboard show runs/results --speed 9"))
    assert "invalid choice" in complaint(words("leaderboard shew"))
    with pytest.raises(KeyError):
        subparser(["leaderboard", "shew"])


# --------------------------------------------------------------------------------------------------- names and examples


def resolve(name: str) -> object:
    """What a dotted name of kpi_bench or baselines stands for.

    Raises:
        AttributeError: nothing.
    """
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize("path", TEXTS, ids=shown)
def test_dotted_names_and_paths_exist(path: Path) -> None:
    missing = []
    for code in INLINE.findall(prose(path)):
        if re.fullmatch(r"(kpi_bench|baselines)(\.\w+)+(\(.*\))?", code):
            try:
                resolve(code.partition("(")[0])
            except AttributeError:
                missing.append(code)
        elif re.fullmatch(r"(kpi_bench|baselines|submissions|benchmarks|docs|tests)/[\w./-]+", code):
            missing += [] if (ROOT / code).exists() else [code]
    assert missing == []


def documented() -> set[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    return set(re.findall(r"^::: (\S+)", text, re.MULTILINE)) | set(re.findall(r"`(kpi_bench\.\w+)`", text))


def test_the_reference_names_what_exists_and_all_that_is_public() -> None:
    names = documented()
    unknown = []
    for name in names:
        try:
            resolve(name)
        except AttributeError:
            unknown.append(name)
    assert unknown == []
    public = {f"kpi_bench.{name}" for name in kpi_bench.__all__ if name != "__version__"}
    there = {id(resolve(name)) for name in names}
    assert {name for name in public - names if id(resolve(name)) not in there} == set()


def examples(page: str) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    return "\n".join(code for _, language, code in FENCE.findall(text) if language == "python")


@pytest.mark.parametrize(
    "page", [p.relative_to(DOCS).as_posix() for p in PAGES if examples(p.relative_to(DOCS).as_posix())]
)
def test_examples_import_what_exists(page: str) -> None:
    for module, names in re.findall(
        r"^from (kpi_bench\S*) import (.+)$", examples(page).replace("(\n", "("), re.MULTILINE
    ):
        for name in re.findall(r"\w+", names):
            resolve(f"{module}.{name}")
    compile(examples(page), page, "exec")


def test_examples_of_results_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(examples("python.md"), "python.md", "exec"), {})
    assert "codex-s 0.00347" in capsys.readouterr().out


def test_the_recipe_of_the_how_to_makes_the_suite_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(examples("add-a-suite.md"), "add-a-suite.md", "exec"), {})
    exec(compile(examples("add-a-task.md"), "add-a-task.md", "exec"), {})
    assert main(["data", "verify", "suites/bookshop"]) == 0
    assert capsys.readouterr().out.strip() in (DOCS / "add-a-suite.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [ROOT / "README.md", DOCS / "boards.md"], ids=shown)
def test_boards_are_those_of_the_results(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(path, tmp_path))
    stale = [
        suite for suite, changed in update_file(copy, ROOT / "leaderboard" / "results").items() if changed
    ]
    assert stale == [], "run `make docs`"


# ----------------------------------------------------------------------------------------------------------- the site


def hook(name: str) -> ModuleType:
    """A module that MkDocs runs over each page."""
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "_hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_reference_has_every_command_with_its_options() -> None:
    reference = hook("commands")
    sections = {part.partition("\n")[0]: part for part in reference.commands().split("## ")[1:]}
    found = dict.fromkeys(sections, 0)
    for name, _, parser in reference._walk(_parser(), "kpi-bench"):
        for action in parser._actions:
            wanted = [
                *action.option_strings,
                *([] if action.option_strings else [str(action.metavar or action.dest)]),
            ]
            assert action.dest == "help" or all(word in sections[name] for word in wanted)
            found[name] += 1
    assert all(found.values())
    assert not [text for text in ("%%", "None", "==SUPPRESS==") if text in reference.commands()]


def test_links_out_of_the_site_become_paths(caplog: pytest.LogCaptureFixture) -> None:
    pages = hook("pages")
    page = argparse.Namespace(file=argparse.Namespace(src_uri="api/harness.md"), parent="Reference", meta={})
    config = argparse.Namespace(docs_dir=str(DOCS))

    def rendered(text: str) -> str:
        return str(pages.on_page_markdown(text, page=page, config=config, files=None))

    assert rendered("[README.md](../../README.md)") == "`README.md`"
    assert rendered("[the code](../../kpi_bench/cli#x) and") == "the code (`kpi_bench/cli`) and"
    assert rendered("[Data](../data.md#licences)") == "[Data](../data.md#licences)"
    assert rendered("[paper](https://arxiv.org/abs/1)") == "[paper](https://arxiv.org/abs/1)"
    assert caplog.text == ""
    rendered("[gone](../../nowhere.md)")
    assert "nowhere.md, which is not in the repository" in caplog.text


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_nobody(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-f",
        str(ROOT / "mkdocs.yml"),
        "-d",
        str(tmp_path),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, env=environment, cwd=ROOT
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*\bhref=\"(?:https?:)?//"
    )
    styles = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//")
    assert [p for p in tmp_path.rglob("*.html") if loads.search(p.read_text(encoding="utf-8"))] == []
    assert [p for p in tmp_path.rglob("*.css") if styles.search(p.read_text(encoding="utf-8"))] == []
    # Without a server the search reads this script, in the frame of assets/iframe-worker.js.
    assert (tmp_path / "search" / "search_index.js").is_file()
    assert "assets/iframe-worker.js" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.py"))
