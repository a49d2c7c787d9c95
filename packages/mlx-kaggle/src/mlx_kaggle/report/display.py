"""What a training run shows: findings and scores on stdout, progress on stderr."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from mlx_kaggle import STARTED
from mlx_kaggle.estimate import Estimate, duration
from mlx_kaggle.job import Job, Results
from mlx_kaggle.tables.competition import row_count
from mlx_tabtext import Column
from mlx_trainer import Progress

COLUMNS_SHOWN = 30
NOTES_SHOWN = 20
LONGEST_NAME = 40


class Display:
    """Prints a run as it goes; use as a context manager, so that the bar is closed."""

    def __init__(self, quiet_results: bool = False):
        self.as_json = quiet_results
        # Names of columns and classes are no markup: "[/b]" would end the run, ":cat:" be a cat.
        self.console = Console(
            stderr=quiet_results, highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        self.bar: Progress | None = None
        self.updates = 0
        self.member = ""
        self.metric = ""

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def machine(self, line: str) -> None:
        """Show what was done to make MLX fast here."""
        self.console.print(f"mlx-fastcpu: {line}", style="dim")

    def job(self, job: Job) -> None:
        """Show the tables as understood."""
        competition, train = job.competition, job.config.data.train
        self.metric = competition.metric
        say = self.console.print
        say(f"{train}: {row_count(job.table)} rows, {len(job.table)} columns")
        say(f"target {competition.target}: {_target(job)}; metric {competition.metric}")
        preset, optimizer = job.config.preset, job.config.training.optimizer
        say(f"id: {competition.id_column or 'none'}; preset: {preset}; optimizer: {optimizer}")
        grid = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for heading in ("column", "kind", "read as", "because"):
            grid.add_column(heading, header_style="bold")
        columns = competition.schema.columns
        for column in columns[:COLUMNS_SHOWN]:
            name, label = (shorten(each, LONGEST_NAME) for each in (column.name, column.label))
            grid.add_row(escape(name), column.kind, escape(label), escape(column.reason))
        say(grid)
        if len(columns) > COLUMNS_SHOWN:
            more = count_kinds(columns[COLUMNS_SHOWN:])
            say(f"... and {more}; all in competition.json of the run folder")
        for note in job.notes[:NOTES_SHOWN]:
            self.note(note)
        if len(job.notes) > NOTES_SHOWN:
            say(f"... and {len(job.notes) - NOTES_SHOWN} more notes; see report.html")

    def note(self, line: str) -> None:
        """Show what the user should know."""
        self.console.print(f"note: {line}", markup=False)

    def estimate(self, estimate: Estimate) -> None:
        """Show how long the run will take."""
        self.updates = estimate.members * estimate.epochs * estimate.updates_per_epoch
        self.console.print(f"expected time: {estimate}")

    def report(self, event: dict[str, Any]) -> None:
        """Take one event of the run."""
        kind = event["event"]
        if kind == "baselines":
            self._scores(event["scores"], "baselines on the same rows:")
        elif kind == "member":
            self.member = f"{event['name']} ({event['number'] + 1}/{event['of']})"
            self._open()
        elif kind == "text":
            self._say(f"{self.member}: {event['report']}")
        elif kind == "update":
            if self.bar:
                self.bar.advance(loss=event["loss"])
        elif kind == "member_end":
            self._say(f"{self.member}: {self.metric} {event['score']:.4f}")

    def results(self, results: Results, folder: Path) -> None:
        """Show the scores and where everything is."""
        self._close()
        competition = results.job.competition
        if self.as_json:
            values = {"metric": competition.metric, "score": results.score}
            values |= {"fold_scores": results.fold_scores, "scores": results.scores}
            click.echo(json.dumps(values))
            return
        say = self.console.print
        self._scores(
            results.scores, f"\nscores on {len(results.job.scored_rows)} rows not trained on:"
        )
        folds = results.fold_scores
        if len(folds) > 1:
            say(f"{competition.metric} by fold: " + "  ".join(f"{score:.4f}" for score in folds))
        say(f"took {duration(time.monotonic() - STARTED)}")
        say(f"report: {folder / 'report.html'}")
        say(f"next: mlx-kaggle predict --run {folder} --test test.csv --output submission.csv")

    def _scores(self, scores: dict[str, dict[str, float]], title: str) -> None:
        grid = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        names = list(next(iter(scores.values())))
        grid.add_column("model", header_style="bold")
        for name in names:
            grid.add_column(name, justify="right", header_style="bold")
        for model, values in scores.items():
            cells = [f"{values[name]:.4f}" if abs(values[name]) < 1000 else f"{values[name]:.0f}"
                     for name in names]  # fmt: skip
            grid.add_row(model, *cells, style="bold" if model == "mlx-kaggle" else None)
        self._say(title)
        self._say(grid)

    def _open(self) -> None:
        if self.bar is None and self.updates:
            self.bar = Progress(self.updates, "training")
            self.bar.__enter__()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
            self.bar = None

    def _say(self, what: Any) -> None:
        self.console.print(what)


def count_kinds(columns: Sequence[Column]) -> str:
    """`1,962 more columns: 1,900 numeric, 62 categorical`."""
    kinds = Counter(column.kind for column in columns).most_common()
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
    return f"{len(columns):,} more column{'s' if len(columns) > 1 else ''}: {counts}"


def shorten(text: str, length: int) -> str:
    """Cut a text that is longer, and say by how much."""
    if len(text) <= length:
        return text
    return f"{text[:length]}... ({len(text) - length:,} more characters)"


def _target(job: Job) -> str:
    competition = job.competition
    if competition.task == "regression":
        low, high = job.encoded.min(), job.encoded.max()
        scale = ", trained on its logarithm" if competition.log_target else ""
        return f"regression ({low:.6g} to {high:.6g}{scale})"
    counts = [int((job.encoded == code).sum()) for code in range(len(competition.classes))]
    shares = [f"{name}: {n}" for name, n in zip(competition.classes, counts, strict=True)]
    more = f", ... {len(shares) - 8} more" if len(shares) > 8 else ""
    return f"{competition.task} ({', '.join(shares[:8])}{more})"
