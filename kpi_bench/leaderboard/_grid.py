"""A table of strings, and how it is drawn for a terminal, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "†": r"\dag{}",
    "·": r"$\cdot$", "¹": r"$^{1}$", "×": r"$\times$",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Headers and rows of equal length, all drawn to the left: cells carry marks. A header may have a line break."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def without_empty_columns(self, empty: str) -> Grid:
        """Drop columns in which every cell is ``empty``."""
        keep = [i for i in range(len(self.headers)) if any(row[i] != empty for row in self.rows)]
        return Grid(
            tuple(self.headers[i] for i in keep), tuple(tuple(row[i] for i in keep) for row in self.rows)
        )


def terminal(grid: Grid, header_width: int = 14) -> str:
    """Aligned columns under headers that take several lines: longer ones are broken at spaces and after "_", "-" and "+"."""
    headers = [
        "\n".join(_wrapped(line, header_width) for line in header.split("\n")) for header in grid.headers
    ]
    return tabulate(grid.rows, headers=headers, tablefmt="simple", disable_numparse=True)


def markdown(grid: Grid) -> str:
    """A pipe table; a bar inside of a cell is escaped."""

    def escaped(cells: Sequence[str]) -> list[str]:
        return [cell.replace("|", "\\|") for cell in cells]

    rows = [escaped(row) for row in grid.rows]
    return tabulate(
        rows, headers=escaped([_one_line(h) for h in grid.headers]), tablefmt="pipe", disable_numparse=True
    )


def latex(grid: Grid) -> str:
    """A booktabs tabular. Cells are LaTeX already: escape text with ``latex_text``."""
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * len(grid.headers)}}}",
        r"\toprule",
        " & ".join(_one_line(header) for header in grid.headers) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def latex_text(text: str) -> str:
    """Plain text with everything escaped that LaTeX would read as a command."""
    return "".join(_LATEX.get(character, character) for character in text)


def _one_line(header: str) -> str:
    return header.replace("\n", " ")


def _wrapped(header: str, width: int) -> str:
    lines = [""]
    for part in re.findall(r"\s?[^\s_+-]*[_+-]*", header):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append(part.lstrip())
        else:
            lines[-1] += part
    return "\n".join(lines)
