"""The display of a training run: tables and scores on stdout, progress on stderr."""

import json
import math
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from mlx_kaggle import STARTED
from mlx_kaggle.prediction.blended import Results, summary
from mlx_kaggle.report import (
    describe_columns,
    describe_target,
    duration,
    format_score,
    is_generated,
    member_table,
)
from mlx_kaggle.tables.files import row_count
from mlx_kaggle.training.estimate import Estimate, seconds_left
from mlx_kaggle.training.job import Job
from mlx_trainer import Display as ProgressDisplay

COLUMNS_SHOWN = 30
NOTES_SHOWN = 20


class Display(ProgressDisplay):
    """Shows the steps of a run; `as_json` moves all but the final scores to stderr."""

    def __init__(self, as_json: bool = False):
        super().__init__()
        self.as_json = as_json
        # Names of columns and classes may look like markup: "[/b]" is an error, ":cat:" an emoji.
        self.console = Console(
            stderr=as_json, highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        self.updates = 0
        self.started = False
        self.member = ""
        self.metric = ""

    def machine(self, line: str) -> None:
        """Show the state of mlx-fastcpu."""
        self.console.print(f"mlx-fastcpu: {line}", style="dim")

    def job(self, job: Job) -> None:
        """Show the tables as inferred."""
        competition, config, say = job.competition, job.config, self.console.print
        self.metric = competition.metric
        columns = [
            column for column in competition.schema.columns if not is_generated(competition, column)
        ]
        what = "windows" if competition.forecast else "rows"
        say(f"{config.data.train}: {row_count(job.table)} {what}, {len(columns)} columns")
        described = describe_target(competition, job.encoded)
        say(f"target {competition.target}: {described}; metric {competition.metric}")
        say(
            f"id: {competition.id_column or 'none'}; preset: {config.preset}; "
            f"optimizer: {config.training.optimizer}"
        )
        grid = _grid("column", "kind", "read as", "because")
        rows, more = describe_columns(columns, COLUMNS_SHOWN)
        for row in rows:
            grid.add_row(*map(escape, row))
        say(grid)
        if more:
            say(more)
        for note in job.notes[:NOTES_SHOWN]:
            self.note(note)
        if len(job.notes) > NOTES_SHOWN:
            say(f"... and {len(job.notes) - NOTES_SHOWN} more notes; see report.html")

    def note(self, line: str) -> None:
        """Show a note."""
        self.console.print(f"note: {line}")

    def estimate(self, estimate: Estimate) -> None:
        """Show how long the run will take."""
        self.updates = estimate.members * estimate.epochs * estimate.updates_per_epoch
        self.console.print(f"expected time: {estimate}")

    def report(self, event: dict[str, Any]) -> None:
        """Show one event of the run."""
        kind = event["event"]
        if kind == "step":
            self.console.print(f"{event['name']} ...")
        elif kind == "columns":
            kept = [gain for gain in event["gains"] if gain.kept]
            line = f"{len(kept)} of {len(event['gains'])} groups of generated columns kept"
            self.console.print(f"fold {event['fold']}: {line}, {duration(event['seconds'])}")
        elif kind == "network":
            self.member = event["name"]
            if self.updates and not self.started:
                self.start(self.updates, "training networks")
                self.started = True
        elif kind == "text":
            self.console.print(f"{self.member}: {event['report']}")
        elif kind == "tasks":
            self.start(event["count"], event["name"])
        elif kind == "task_end":
            self.advance()
        elif kind == "update":
            self.advance(loss=event["loss"])
        elif kind == "member_end":
            score = f"{self.metric} {format_score(event['score'])}"
            line = f"fold {event['fold']}: {event['name']}: {score}, {duration(event['seconds'])}"
            self.console.print(line)
        elif kind == "fold_end" and event["times"]:
            self._left(event["fold"] + 1, len(event["found"].job.splits), event["times"])
        elif kind == "note":
            self.note(event["line"])

    def _left(self, done: int, folds: int, times: list[float]) -> None:
        """Show what the other folds, blend and report will take, by the folds so far."""
        if done < folds:
            fold = sum(times) / len(times)
            left = duration(seconds_left(fold, folds - done, folds))
            self.console.print(f"{done} of {folds} folds are finished; about {left} left")

    def results(self, results: Results, folder: Path | None) -> None:
        """Show the scores and the next command, unless the folder is not kept."""
        self.close()
        metric, folds = results.job.competition.metric, results.fold_scores
        if self.as_json:
            click.echo(json.dumps(summary(results)))
            return
        say = self.console.print
        rows = len(results.job.scored_rows)
        self._scores(results.scores, f"\nscores on {rows} rows not trained on:")
        say("the line mlx-kaggle is the blend, each fold by what was chosen on the other folds")
        self._members(results)
        for note in (*results.notes, results.choice.note):
            say(note)
        for line in results.decision.describe(results.job.competition):
            say(f"fitted on these rows, and stored: {line}")
        if len(folds) > 1:
            say(f"{metric} by fold: " + "  ".join(f"{score:.4f}" for score in folds))
        say(f"took {duration(time.monotonic() - STARTED)}")
        if folder is None:
            return
        say(f"report: {folder / 'report.html'}")
        say(f"next: mlx-kaggle predict --run {folder} --test test.csv --output submission.csv")

    def _members(self, results: Results) -> None:
        headings, rows = member_table(results)
        grid = _grid(headings[0])
        for name in headings[1:]:
            grid.add_column(name, justify="right", header_style="bold")
        for row in rows:
            grid.add_row(*map(escape, row))
        self.console.print("\nmembers:")
        self.console.print(grid)

    def _scores(self, scores: dict[str, dict[str, float]], title: str) -> None:
        grid = _grid("model")
        names = list(next(iter(scores.values())))
        for name in names:
            grid.add_column(name, justify="right", header_style="bold")
        for model, values in scores.items():
            cells = [format_score(values.get(name, math.nan)) for name in names]
            grid.add_row(model, *cells, style="bold" if model == "mlx-kaggle" else None)
        self.console.print(title)
        self.console.print(grid)


def _grid(*headings: str) -> RichTable:
    grid = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        grid.add_column(heading, header_style="bold")
    return grid
