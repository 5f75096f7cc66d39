"""What must not be published: credentials, absolute paths and addresses of people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_CREDENTIALS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}",
    "a GitHub token": r"\b(?:gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,})",
    "a GitLab token": r"\bglpat-[\w-]{16,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google key": r"\bAIza[\w-]{30,}",
    "a Slack token": r"\bxox[abeoprs]-[\w-]{10,}",
    "an API key": r"\bsk-[\w-]{20,}",
    "a bearer token": r"(?i)\bbearer\s+[\w.~+/-]{16,}",
    "a JSON web token": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an address with a password": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@",
}
_PATHS = (
    # After a letter or a digit the slash divides ("tail/mrr"); after ":" and "/" it belongs to a web address.
    r"(?:^|(?<=[\s\"'`(\[{<=,;:|]))/(?!/)[^\s\"'`)\]}>,;:|/]+(?:/[^\s\"'`)\]}>,;:|]*)+",
    r"^/[^\s/][^\s]*$",
    r"\b(?i:file):/+[^\s\"'`]+",
    r"(?:^|(?<![\w~]))~(?:[A-Za-z_][\w.-]*)?/[^\s\"'`)\]}>,;]+",
    r"(?<![A-Za-z0-9])[A-Za-z]:(?:\\|/(?!/))[^\s\"'`]+",
    r"(?:^|(?<=\s))\\\\[\w.$-]+\\[^\s\"'`]+",
)
_E_MAIL = (
    r"(?<![\w.+-])(?!git@)[A-Za-z0-9][\w.+-]*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}\b"
)

_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    *((why, re.compile(rule)) for why, rule in _CREDENTIALS.items()),
    ("an absolute path", re.compile("|".join(_PATHS))),
    ("an e-mail address", re.compile(_E_MAIL)),
)
_SECRET_KEY = re.compile(
    r"(?i)(?:^|[_.-])(?:password|passwd|passphrase|secret|credentials?|api_?key|access_?key|secret_?key|auth_?token|access_?token)$"
)


def find_private(value: Any) -> list[tuple[str, str]]:
    """Every credential, absolute path and e-mail address in parsed JSON, as (field path, why); keys are searched as well as values.

    A field path is written as in ``notes.source[0].file``; it is empty for a bare string. What was found is not repeated:
    neither the reasons nor the field paths contain it.
    """
    return list(_walk(value, ""))


def _walk(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield from ((where, why) for why in _kinds(value))
    elif isinstance(value, Mapping):
        for position, (key, item) in enumerate(value.items()):
            name = str(key)
            found = _kinds(name)
            inner = f"{where}.{name}" if where else name
            if found:
                # The key is what must not be shown: its place stands for it.
                inner = f"{where}<key {position}>"
                yield from ((inner, f"{why} as the name of a field") for why in found)
            if isinstance(item, str) and item and _SECRET_KEY.search(name) and not _kinds(item):
                yield inner, "a field named like a secret"
            yield from _walk(item, inner)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _walk(item, f"{where}[{position}]")


def _kinds(text: str) -> list[str]:
    return [why for why, rule in _RULES if rule.search(text)]


def redact(text: str, tokens: tuple[str, ...] = ()) -> str:
    """The text with ``***`` in place of the given tokens and of whatever looks like a credential."""
    for token in tokens:
        text = text.replace(token, "***")
    for _, rule in _RULES[: len(_CREDENTIALS)]:
        text = rule.sub("***", text)
    return text
