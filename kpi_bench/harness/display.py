"""Progress of an evaluation on a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from kpi_bench.harness.channel import Message
from kpi_bench.harness.evaluate import Outcome


class Display:
    """A bar over runs and a line on what the current run is doing; errors are printed as they come. A ``Listener``."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            transient=not self.console.is_terminal,
        )
        self._runs = self._progress.add_task(title, total=None, status="")
        self._current: dict[tuple[str | None, int], str] = {}

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def planned(self, runs: int) -> None:
        self._progress.update(self._runs, total=runs)

    def started(self, task: str | None, seed: int) -> None:
        self._status((task, seed), "")

    def message(self, message: Message) -> None:
        kind, run = message["kind"], (message["task"], message["seed"])
        if kind == "begin":
            timed = f" of timing round {message['round']}" if "round" in message else ""
            self._status(run, f"{message['phase']}{timed}")
        elif kind == "curve":
            self._status(run, f"step {message['step']}: {message['metric']} {message['value']:.4f}")
        elif kind == "progress":
            total = f"/{message['total']}" if message.get("total") else ""
            self._status(run, f"{message['description']} {message['done']}{total}")

    def finished(self, outcome: Outcome) -> None:
        self._progress.advance(self._runs)
        self._current.pop((outcome.task, outcome.seed), None)
        if outcome.error is None or outcome.blocked:
            return
        self.console.print(f"[red]failed[/red] {outcome.task or 'pretrain'} seed {outcome.seed}: ", end="")
        self.console.print(outcome.error, markup=False, highlight=False)

    def _status(self, run: tuple[str | None, int], text: str) -> None:
        task, seed = run
        self._current[run] = text
        beside = f" ({len(self._current)} under way)" if len(self._current) > 1 else ""
        line = f"{task or 'pretrain'} seed {seed} {text}{beside}"
        self._progress.update(self._runs, status=f"[dim]{escape(line)}[/dim]")
