"""One line of an audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "leak"]


@dataclass(frozen=True)
class Finding:
    """``count`` of ``total`` rows (or texts, items, relations, ...) of ``subject`` show what ``check`` looks for.

    ``leak``: something that a model can exploit without learning the task. ``warning``: a reader of scores should know it.
    ``info``: a fact, among them checks that found nothing.
    """

    subject: str
    check: str
    severity: Severity
    count: int
    total: int
    detail: str

    @property
    def share(self) -> float:
        """``count / total``, 0 where there is nothing to count."""
        return self.count / self.total if self.total else 0.0


def graded(severity: Severity, count: int) -> Severity:
    """The severity of a check that found ``count`` cases: info when it found none."""
    return severity if count else "info"
