"""A check of contributed results as text for a terminal and as a comment in Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable

from kpi_bench.leaderboard import _grid, _numbers
from kpi_bench.leaderboard._grid import Grid
from kpi_bench.leaderboard.check import Check, Finding, Rival, Standing

MOST_FINDINGS = 100
LONGEST = 300


def render_check(check: Check) -> str:
    """Where the new rows would stand, the findings, and a line that counts them."""
    parts = [_grid.terminal(_table(check, str))] if check.standings else []
    parts += [
        f"{finding.severity}: {finding.path}: {_plain(finding.field)}: {_plain(finding.message)}"
        for finding in check.findings
    ]
    return "\n".join([*parts, _counts(check)])


def check_markdown(check: Check) -> str:
    """The same as a comment of a pull request. What contributors wrote stands in code spans: it can neither mention nor link anybody."""
    verdict = "cannot be merged" if check.count("error") else "can be merged"
    parts = [f"### Contributed results: {verdict}", _counts(check)]
    if check.standings:
        parts += [_grid.markdown(_table(check, _code)), _LEGEND]
    if check.findings:
        shown = [_line(finding) for finding in check.findings[:MOST_FINDINGS]]
        left = len(check.findings) - len(shown)
        parts.append("\n".join([*shown, *([f"- and {left} more"] if left else [])]))
    return "\n\n".join(parts) + "\n"


_LEGEND = (
    "Rank: as on the board with these rows merged, `=` where a paired test (corrected for all pairs of the task) cannot separate it from others. "
    "Differences are new minus other, with their 95% interval; p is that of this pair alone."
)


def _table(check: Check, quote: Callable[[str], str]) -> Grid:
    headers = ("result", "metric", "mean", "rank", "place", "best other", "difference", "p", "nearest floor", "difference", "p")  # fmt: skip
    return Grid(headers, tuple(_row(standing, quote) for standing in check.standings))


def _row(standing: Standing, quote: Callable[[str], str]) -> tuple[str, ...]:
    result = standing.entry.result
    floor = _rival(standing.floor, quote)
    if standing.floor is None and standing.chance is not None:
        difference = _numbers.signed(result.main.mean - standing.chance)
        floor = (f"(chance) {_numbers.score(standing.chance)}", difference, _numbers.ABSENT)
    return (
        quote(result.key),
        result.task.main_metric,
        _numbers.score(result.main.mean),
        _numbers.rank(standing.rank) or _numbers.ABSENT,
        f"{standing.place} of {standing.n_rows}",
        *_rival(standing.best, quote),
        *floor,
    )


def _rival(rival: Rival | None, quote: Callable[[str], str]) -> tuple[str, str, str]:
    if rival is None:
        return (_numbers.ABSENT,) * 3
    difference = _numbers.signed(rival.difference)
    if rival.interval is not None:
        difference += f" [{_numbers.signed(rival.interval[0])}, {_numbers.signed(rival.interval[1])}]"
    return f"{quote(rival.name)} {_numbers.score(rival.mean)}", difference, _numbers.p_value(rival.p_value)


def _counts(check: Check) -> str:
    found = ", ".join(f"{check.count(severity)} {severity}(s)" for severity in ("error", "warning", "note"))
    return f"{len(check.new)} new or changed result(s), {check.n_unchanged} as on the board: {found}"


def _line(finding: Finding) -> str:
    place = "/".join(finding.path.parts[-3:])
    return f"- **{finding.severity}** {_code(place)} {_code(finding.field)}: {_code(finding.message)}"


def _plain(text: str) -> str:
    """One line without control characters, which could rewrite a terminal, cut where it is long."""
    line = re.sub(r"\s+", " ", text)
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= LONGEST else line[:LONGEST] + "..."


def _code(text: str) -> str:
    return "`" + _plain(text).replace("`", "'") + "`"
