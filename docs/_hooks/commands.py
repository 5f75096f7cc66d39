"""The command-line reference, from the parser that runs the commands, so that it cannot go stale."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from kpi_bench.cli import _parser

PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the commands where a page has :data:`PLACE`."""
    return markdown.replace(PLACE, commands()) if PLACE in markdown else markdown


def commands() -> str:
    """Every command with its arguments in Markdown, from the parser that runs them."""
    return "\n".join(
        line
        for name, help_, parser in _walk(_parser(), "kpi-bench")
        for line in _section(name, help_, parser)
    )


def _walk(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Commands that do something, each with its line of help, in the order of ``--help``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for word, child in action.choices.items():
                inner = list(_walk(child, f"{name} {word}"))
                yield from inner or [(f"{name} {word}", helps.get(word, ""), child)]


def _section(name: str, help_: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    # Not parser.format_usage(), which is as wide as the terminal.
    formatter = argparse.HelpFormatter(parser.prog, width=88)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    usage = formatter.format_help().rstrip()
    yield from (f"## {name}", "", f"{help_[:1].upper()}{help_[1:]}.", "", "```text", usage, "```", "")
    yield from ("| argument | meaning |", "|---|---|")
    for action in parser._actions:
        if action.dest != "help":
            called = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            takes = f" {_placeholder(action)}" if action.option_strings and action.nargs != 0 else ""
            needed = "**Required.** " if action.required and action.option_strings else ""
            text = (action.help or "").replace("%%", "%").replace("|", "\\|")
            yield f"| `{called}{takes}` | {needed}{_with_choices(text, action)} |"
    yield ""


def _placeholder(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _with_choices(text: str, action: argparse.Action) -> str:
    choices = f"one of {', '.join(f'`{choice}`' for choice in action.choices)}" if action.choices else ""
    default = f" (default {action.default})" if choices and isinstance(action.default, str) else ""
    return ": ".join(part for part in (text, choices) if part) + default
