"""The site as files: same bytes again, nothing that a stranger wrote becomes markup, no address leaves, nothing is lost on failure."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from site_factory import SUITE, TASKS, Submission, draw, write

from kpi_bench.cli import main
from kpi_bench.errors import ResultError
from kpi_bench.leaderboard import load_results, show
from kpi_bench.leaderboard.site import SiteReport, build_site

SCRIPT = "</script><script>alert('PWN1')</script>"
QUOTES = "\"'><img src=x onerror=alert('PWN2')>"
TEMPLATE = "{{7*7}}{% raw %}${7*7}<!--PWN3-->"
BIDI = "\u202ePWN4\u2066 \u05d0\u2028\u2029 ]]>"
LONG = "PWN5" + "w" * 3000
ADDRESS = "javascript:alert('PWN6')"
DATA_ADDRESS = "data:text/html,<script>alert('PWN7')</script>"


def hostile(name: str) -> Submission:
    """Texts that try to become markup, in every field that takes free text."""
    return Submission(
        name,
        0.5,
        description=SCRIPT + QUOTES + TEMPLATE + BIDI + LONG,
        paper=ADDRESS,
        source_url=DATA_ADDRESS,
        version=QUOTES,
        size=TEMPLATE,
        fidelity=SCRIPT,
        tags=(SCRIPT, QUOTES, LONG),
        flags=(SCRIPT, BIDI),
        kind=QUOTES,
        config=SCRIPT,
        params={SCRIPT: QUOTES, "nested": {QUOTES: [SCRIPT, TEMPLATE]}, "long": LONG},
        notes={SCRIPT: [QUOTES] * 3, "text": [BIDI, TEMPLATE, LONG]},
        hw=SCRIPT,
    )


def harmless(name: str) -> Submission:
    """As many texts of the same shape."""
    return Submission(
        name,
        0.5,
        description="a",
        paper="b",
        source_url="c",
        version="d",
        size="e",
        fidelity="f",
        tags=("g", "h", "i"),
        flags=("j", "k"),
        kind="l",
        config="m",
        params={"n": "o", "nested": {"p": ["q", "r"]}, "long": "s"},
        notes={"t": ["u"] * 3, "text": ["v", "w", "x"]},
        hw="y",
    )


class Page(HTMLParser):
    """Elements of a page in order, its addresses and ids, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._script: dict[str, str | None] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        self._script = dict(attrs) if tag == "script" else None
        if self._script is not None:
            self.scripts.append((self._script, ""))

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        else:
            self.scripts[-1] = (self._script, self.scripts[-1][1] + data)

    def values(self, *names: str) -> list[tuple[str, str]]:
        """Elements and values of attributes."""
        return [(tag, value) for tag, key, value in self.attributes if key in names]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pages_of(folder: Path) -> dict[str, Page]:
    return {
        str(p.relative_to(folder)): Page(p.read_text(encoding="utf-8"))
        for p in sorted(folder.rglob("*.html"))
    }


def wrong_addresses(site: Path) -> list[tuple[str, str, str]]:
    """Addresses that leave the site (but for links that results state), or lead to no file or no place in a page."""
    stated = {"https://arxiv.org/abs/2405.13085", "https://example.org/code"}
    root, pages = site.resolve(), pages_of(site)
    ids = {place: {value for _, value in page.values("id")} for place, page in pages.items()}
    wrong = []
    for place, page in pages.items():
        for tag, value in page.values(
            "href", "src", "action", "srcset", "poster", "data-assets", "data-payload"
        ):
            parts = urlsplit(value)
            if parts.scheme or parts.netloc:
                sound = (tag, value) == ("link", "data:,") or (tag == "a" and value in stated)
            else:
                target = (
                    (root / place).parent / unquote(parts.path) if parts.path else root / place
                ).resolve()
                sound = target.is_relative_to(root) and target.exists()
                # A fragment with "=" is a view of a board.
                if sound and parts.fragment and "=" not in parts.fragment:
                    sound = parts.fragment in ids.get(str(target.relative_to(root)), ())
            if not sound:
                wrong.append((place, tag, value))
    return wrong


def active_parts(pages: Mapping[str, Page]) -> list[tuple[str, str]]:
    """Event handlers, inline scripts and images: no page of the site has any."""
    return [
        (place, found)
        for place, page in pages.items()
        for found in (
            *(key for _, key, _ in page.attributes if key.startswith("on")),
            *(text for kind, text in page.scripts if kind.get("type") != "application/json" and text.strip()),
            *(tag for tag in page.tags if tag in ("img", "iframe", "object", "embed", "base")),
        )
    ]


def build(results: Path, out: Path) -> SiteReport:
    return build_site(load_results(results), out)


def beside(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two suites; of the first, floors, missing tasks, three machines and rows without a rank."""
    root = tmp_path_factory.mktemp("site") / "results"
    write(root, draw(18))
    write(root, [dataclasses.replace(one, suite="second") for one in draw(2)])
    return root


@pytest.fixture(scope="module")
def site(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "site"
    build(results, out)
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of two rows."""
    folder = tmp_path_factory.mktemp("two")
    write(folder / "results", draw(2))
    build(folder / "results", folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with one hostile row among drawn ones."""
    folder = tmp_path_factory.mktemp("attacked")
    write(folder / "results", [hostile("odd"), *draw(2)])
    build(folder / "results", folder / "site")
    return folder / "site"


# --- Content ---------------------------------------------------------------------------------------------------------


def test_equal_results_give_equal_bytes_in_another_process_and_folder(
    results: Path, site: Path, tmp_path: Path
) -> None:
    shutil.copytree(results, tmp_path / "elsewhere")
    command = [sys.executable, "-m", "kpi_bench", "leaderboard", "build", "elsewhere", "--out", "site"]
    subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True, capture_output=True
    )
    again = files_of(tmp_path / "site")
    first = files_of(site)
    assert again.keys() == first.keys()
    assert [place for place in first if first[place] != again[place]] == []


def test_report_counts_what_was_written(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    report = build(results, out)
    written = files_of(out)
    assert report.suites == (SUITE, "second")
    assert report.n_submissions == 18 + 2
    assert report.n_results == len(list(results.rglob("*.json")))
    assert (report.n_files, report.n_bytes) == (len(written), sum(map(len, written.values())))


def test_every_submission_has_its_page_and_data(results: Path, site: Path) -> None:
    for suite in load_results(results).suites:
        names = {path.stem for path in (results / suite).rglob("*.json")}
        assert {path.stem for path in (site / suite / "submissions").iterdir()} == names
        assert {path.stem for path in (site / suite / "data").iterdir()} == names


@pytest.mark.parametrize(("fmt", "suffix"), [("csv", "csv"), ("latex", "tex")])
def test_files_for_machines_are_what_the_command_line_shows(
    results: Path, site: Path, fmt: str, suffix: str
) -> None:
    for suite in load_results(results).suites:
        assert (site / suite / f"board.{suffix}").read_text() == show(results, suite=suite, fmt=fmt)


def test_board_data_are_those_of_the_board(results: Path, site: Path) -> None:
    board = json.loads(show(results, suite=SUITE, fmt="json"))["boards"][0]
    shown = json_of(Page((site / SUITE / "index.html").read_text()), "board-data")
    assert [row["name"] for row in shown["rows"]] == [row["name"] for row in board["rows"]]
    for ours, theirs in zip(shown["rows"], board["rows"], strict=True):
        for task, cell in zip(shown["tasks"], ours["cells"], strict=True):
            full = theirs["cells"].get(task["name"])
            assert (cell is None) == (full is None)
            if full is None:
                continue
            assert cell[0] == pytest.approx(full["main"]["mean"], rel=1e-5)
            assert cell[3] == (full["rank"] and full["rank"]["rank"])
            assert cell[5] == len(full["main"]["per_seed"])


def test_space_card_is_that_of_a_static_space(site: Path) -> None:
    _, front, _ = (site / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["sdk"] == "static"
    assert (site / card.get("app_file", "index.html")).is_file()


# --- Addresses -------------------------------------------------------------------------------------------------------


def test_every_address_in_the_pages_resolves_and_none_leaves(site: Path) -> None:
    assert wrong_addresses(site) == []


def test_own_scripts_and_styles_name_no_address(site: Path) -> None:
    for path in sorted((site / "assets").iterdir()):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".css":
            assert not re.search(r"@import|url\(\s*[\"']?(?!#|data:)", text), path.name
        elif path.name not in ("vega.js", "specs.js"):
            assert not re.search(r"https?://(?!www\.w3\.org/)", text), path.name
            assert not re.search(
                r"\bfetch\(|XMLHttpRequest|\bimport\(|sendBeacon|WebSocket|EventSource", text
            ), path.name
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
            ), path.name


def test_specs_load_no_data_from_addresses(site: Path) -> None:
    text = (site / "assets" / "specs.js").read_text()
    assert not re.search(r'"url"\s*:', text)


# --- Hostile texts ---------------------------------------------------------------------------------------------------


def json_of(page: Page, name: str) -> dict:
    """A JSON script of a page."""
    (found,) = [text for attributes, text in page.scripts if attributes.get("id") == name]
    return json.loads(found)


def test_hostile_texts_change_no_page(attacked: Path, tmp_path: Path) -> None:
    write(tmp_path / "results", [harmless("odd"), *draw(2)])
    build(tmp_path / "results", tmp_path / "site")
    with_attack, without = pages_of(attacked), pages_of(tmp_path / "site")
    assert with_attack.keys() == without.keys()
    for place, page in with_attack.items():
        assert page.tags == without[place].tags, place
        assert {key for _, key, _ in page.attributes} == {key for _, key, _ in without[place].attributes}, (
            place
        )
        assert len(page.scripts) == len(without[place].scripts), place


def test_hostile_texts_are_still_there_to_read(attacked: Path) -> None:
    page = Page((attacked / SUITE / "submissions" / "odd.html").read_text(encoding="utf-8"))
    for text in (SCRIPT, QUOTES, TEMPLATE, LONG, ADDRESS, DATA_ADDRESS):
        assert text in page.text
    row = json_of(Page((attacked / SUITE / "index.html").read_text(encoding="utf-8")), "board-data")
    odd = next(row for row in row["rows"] if row["name"] == "odd")
    assert odd["tags"] == [SCRIPT, QUOTES, LONG]


def test_no_script_style_or_address_comes_from_a_text(attacked: Path) -> None:
    pages = pages_of(attacked)
    assert active_parts(pages) == []
    for place, page in pages.items():
        assert not any("<" in text for _, text in page.scripts), place
        for tag, key, value in page.attributes:
            if key in ("href", "src", "action", "style", "srcdoc"):
                assert "PWN" not in value, (place, tag, key)


def test_data_scripts_are_one_call_with_plain_json(attacked: Path) -> None:
    scripts = [*(attacked / SUITE / "data").iterdir(), attacked / SUITE / "plots.js"]
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        called = re.fullmatch(r'kpiBench\.receive\("(submission|plots)", (\{.*\})\);\n', text)
        assert called, path
        json.loads(called[2])
        assert text.isascii(), path
        assert "<" not in text, path


@pytest.mark.parametrize(
    "text", [SCRIPT, QUOTES, "a&b;c d", "100%41#x?y", "..", "-rf", "\u202eb", "{{7*7}}", "a\\b"]
)
def test_a_hostile_name_is_shown_harmlessly_or_left_out(tmp_path: Path, two: Path, text: str) -> None:
    """A name becomes a file name, a link, a command and an entry of a list."""
    name = text.replace("/", "\u2044")[:80]
    write(tmp_path / "results", [dataclasses.replace(draw(1)[0], name=name), *draw(2)])
    report = build(tmp_path / "results", tmp_path / "site")
    assert beside(tmp_path / "site") == {"results", "site"}
    pages = pages_of(tmp_path / "site")
    own = f"{SUITE}/submissions/{name}.html"
    assert own in pages or any(name in note for note in report.notes)
    assert pages.keys() - {own} == pages_of(two).keys()
    assert wrong_addresses(tmp_path / "site") == []
    assert active_parts(pages) == []


# --- Bad results and names that collide ------------------------------------------------------------------------------


def test_bad_results_are_listed_and_do_not_hide_good_ones(tmp_path: Path) -> None:
    root = tmp_path / "results"
    paths = write(root, draw(4))
    broken, unsound, spoiled = paths[0], paths[7], paths[13]
    broken.write_text("{", encoding="utf-8")
    raw = json.loads(unsound.read_text())
    raw["metrics"][raw["task"]["main_metric"]]["mean"] += 0.1
    unsound.write_text(json.dumps(raw))
    spoiled.with_suffix(".queries.parquet").write_bytes(b"PAR1")
    report = build(root, tmp_path / "site")
    text = Page((tmp_path / "site" / SUITE / "index.html").read_text()).text
    for path in (broken, unsound, spoiled):
        place = str(path.relative_to(root).with_suffix(""))
        assert sum(place in note for note in report.notes) == 1, report.notes
        assert place in text
    rows = json_of(Page((tmp_path / "site" / SUITE / "index.html").read_text()), "board-data")["rows"]
    assert len(rows) == 4
    assert sum(cell is not None for row in rows for cell in row["cells"]) == 4 * len(TASKS) - 3


def test_published_notes_do_not_tell_where_the_results_lay(tmp_path: Path) -> None:
    root = tmp_path / "results"
    write(root, draw(2))[0].write_text("{", encoding="utf-8")
    build(root, tmp_path / "site")
    told = [
        place for place, content in files_of(tmp_path / "site").items() if str(tmp_path).encode() in content
    ]
    assert told == []


@pytest.mark.parametrize("name", ["index", "assets", "compare", "data", "submissions", "plots", "board"])
def test_names_of_own_files_may_be_those_of_suites_and_submissions(
    tmp_path: Path, two: Path, name: str
) -> None:
    root, out = tmp_path / "results", tmp_path / "site"
    write(root, [dataclasses.replace(draw(1)[0], name=name, suite=name), *draw(2)])
    build(root, out)
    assert (out / name / "submissions" / f"{name}.html").is_file()
    assets = {place: content for place, content in files_of(two).items() if place.startswith("assets/")}
    assert assets.items() <= files_of(out).items()
    assert wrong_addresses(out) == []


# --- Places ----------------------------------------------------------------------------------------------------------


def test_a_new_build_replaces_the_old_one_as_a_whole(results: Path, site: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    write(tmp_path / "few", draw(1))
    build(tmp_path / "few", out)
    build(results, out)
    assert files_of(out) == files_of(site)
    assert beside(out) == {"few", "site"}


@pytest.mark.parametrize("name", ["index.html", "README.md"])
def test_a_suite_named_like_a_file_of_the_site_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "results", [dataclasses.replace(draw(1)[0], suite=name)])
    with pytest.raises(ResultError, match=f"a file of its own named {name}"):
        build(tmp_path / "results", tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("foreign", ["notes.txt", "index.html", ".git/config", "sub/.kpi-bench-site"])
def test_a_folder_of_others_is_refused_and_stays(results: Path, tmp_path: Path, foreign: str) -> None:
    out = tmp_path / "site"
    (out / foreign).parent.mkdir(parents=True)
    (out / foreign).write_text("mine")
    with pytest.raises(ResultError, match="something else"):
        build(results, out)
    assert files_of(out) == {foreign: b"mine"}
    assert beside(out) == {"site"}


def test_a_file_at_the_place_is_refused(results: Path, tmp_path: Path) -> None:
    (tmp_path / "site").write_text("mine")
    with pytest.raises(ResultError, match="something else"):
        build(results, tmp_path / "site")
    assert (tmp_path / "site").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_build_leaves_the_old_site(
    results: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    out = tmp_path / "site"
    write(tmp_path / "few", draw(1))
    build(tmp_path / "few", out)
    before = files_of(out)

    def stop_at_second(suite: str) -> None:
        if suite == "second":
            raise error

    with pytest.raises(error):
        build_site(load_results(results), out, progress=stop_at_second)
    assert files_of(out) == before
    assert beside(out) == {"few", "site"}


def test_nothing_to_show_is_an_error_that_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").mkdir()
    out = tmp_path / "site"
    assert main(["leaderboard", "build", str(tmp_path / "results"), "--out", str(out)]) != 0
    assert "no result" in capsys.readouterr().err
    assert not out.exists()


def test_documentation_link_is_relative_to_the_first_page(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    build_site(load_results(results), out, docs_url="docs/index.html")
    for place, page in pages_of(out).items():
        ups = "../" * place.count("/")
        assert ("a", f"{ups}docs/index.html") in page.values("href"), place
