"""The tables of `mlx-kaggle runs` in a terminal."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlx_kaggle.report import duration, format_score
from mlx_kaggle.runs.comparison import folds_in_words, same_folds
from mlx_kaggle.runs.records import RunRecord

FILES_SHOWN = 20
# Of tables in files and pipes, where nothing has to be cut.
WIDTH = 200


def show_list(
    folder: Path, groups: Sequence[Sequence[RunRecord]], others: Sequence[RunRecord],
    notes: Sequence[str],
) -> None:  # fmt: skip
    """Print a table for each question, then the runs without a score."""
    console = _console()
    for group in groups:
        first = group[0]
        console.print(f"{first.data}: {metric_in_words(first)}", style="bold")
        grid = _grid("run", ">score", ">std. error", "best member", ">HistGB", "answer",
                     ">time", "when")  # fmt: skip
        for record in group:
            grid.add_row(*map(escape, leaderboard_row(record)))
        console.print(grid)
        if not same_folds(group):
            console.print("not all on the same rows and folds:", style="yellow")
            for record in group:
                console.print(f"  {record.name}: {folds_in_words(record)}")
        console.print()
    if groups:
        console.print("std. error: of the mean over the folds; HistGB: HistGradientBoosting as it "
                      "is on the same folds", style="dim")  # fmt: skip
    for record in others:
        console.print(f"{record.name}: {record.state}: {record.problem}")
    for note in notes:
        console.print(f"note: {note}")
    if not groups and not others:
        console.print(f"no run in {folder}; mlx-kaggle train --output {folder / 'NAME'} makes one")


def leaderboard_row(record: RunRecord) -> list[str]:
    """Return the cells of a finished run: name to time of the end."""
    best = next(iter(record.member_scores.items()), None)
    return [
        record.name,
        format_score(record.score),
        format_score(record.standard_error),
        f"{best[0]} {format_score(best[1])}" if best else "-",
        format_score(record.plain_score),
        record.answer,
        duration(record.summary["seconds"]) if record.summary["seconds"] else "-",
        when_in_words(record),
    ]


def metric_in_words(record: RunRecord) -> str:
    """Return the metric and its direction."""
    return f"{record.metric}, {'higher' if record.greater_is_better else 'lower'} is better"


def when_in_words(record: RunRecord) -> str:
    """Return the local time of the end of a run, or of its start."""
    return datetime.fromtimestamp(record.when).strftime("%Y-%m-%d %H:%M")


def describe_run(record: RunRecord) -> dict[str, Any]:
    """Return a JSON form of all that `runs show` prints."""
    summary = record.summary
    names = ("scores", "members", "blend_scores", "decision", "notes")
    return {
        **record.to_dict(),
        "answer_note": summary.get("answer"),
        "weights": record.blend.get("weights", {}),
        **{name: summary.get(name) for name in names},
        "settings": changed_settings(record),
        "files": [
            {"file": name, "bytes": size} for name, size in files_of(record.path).items()
        ],
    }  # fmt: skip


def show_run(record: RunRecord) -> None:
    """Print the state of a run, its answer, members, changed settings, notes and files."""
    console = _console()
    console.print(f"{record.name}: {record.data}" if record.config else record.name, style="bold")
    if record.finished:
        spread = format_score(record.standard_error)
        error = "" if spread == "-" else f", std. error {spread}"
        console.print(f"{record.metric} {format_score(record.score)}{error} on "
                      f"{folds_in_words(record)}; {when_in_words(record)}, "
                      f"took {duration(record.summary['seconds'])}")  # fmt: skip
        console.print(record.summary["answer"])
        for line in record.summary["decision"]:
            console.print(f"fitted on these rows, and stored: {line}")
        console.print(_members(record))
    else:
        console.print(f"{record.state}: {record.problem}")
    if record.ensemble:
        for each in record.config.get("runs", ()):
            console.print(f"run: {each}")
    elif changed := changed_settings(record):
        console.print(f"\nsettings that differ from the preset {record.config['preset']}:")
        grid = _grid("setting", "preset", "this run")
        for key, (preset, value) in changed.items():
            grid.add_row(*map(escape, (key, setting_in_words(preset), setting_in_words(value))))
        console.print(grid)
    for note in record.summary.get("notes", ()):
        console.print(f"note: {note}")
    console.print(f"\n{files_in_words(record.path)}:")
    grid = _grid("file", ">bytes")
    files = files_of(record.path)
    own = {name: size for name, size in files.items() if not name.startswith("members/")}
    for name, size in [*own.items()][:FILES_SHOWN]:
        grid.add_row(escape(name), f"{size:,}")
    console.print(grid)
    rest = len(files) - min(len(own), FILES_SHOWN)
    if rest:
        console.print(f"and {rest} files of members and others")


def changed_settings(record: RunRecord) -> dict[str, tuple[Any, Any]]:
    """Return the settings of a trained run that differ from its preset: there, and in the run."""
    name = record.config.get("preset")
    if not isinstance(name, str):
        return {}
    from mlx_kaggle.presets import NAMES, flattened, read_preset
    from mlx_kaggle.settings.config import RunConfig
    from mlx_trainer import dump_config, load_config

    if name not in NAMES:  # a file, which may have changed
        return {}
    values = read_preset(name).resolved(str(record.config.get("encoder.path") or ""))
    preset = load_config(RunConfig, values, flags={"preset": name})
    base = flattened(yaml.safe_load(dump_config(preset)))
    # A setting that the run does not have is of a newer version, and was not set.
    return {
        key: (base.get(key), value)
        for key, value in record.config.items()
        if base.get(key) != value
    }


def show_comparison(records: Sequence[RunRecord], compared: dict[str, Any]) -> None:
    """Print the settings that differ, and the scores fold by fold."""
    console = _console()
    names = [record.name for record in records]
    if settings := compared["settings"]:
        grid = _grid("setting", *names)
        for key, row in settings.items():
            grid.add_row(escape(key), *(escape(setting_in_words(row[name])) for name in names))
        console.print(grid)
    else:
        console.print("no setting differs")
    grid = _grid("score", *(f">{name}" for name in names))
    grid.add_row("metric", *(record.metric for record in records))
    grid.add_row("all rows", *(format_score(record.score) for record in records))
    folds = [record.fold_scores if len(record.fold_scores) > 1 else [] for record in records]
    for at in range(max(map(len, folds))):
        row = (format_score(each[at]) if at < len(each) else "" for each in folds)
        grid.add_row(f"fold {at}", *row)
    grid.add_row("difference", *(_difference(compared["scores"][name]) for name in names))
    console.print()
    console.print(grid)
    console.print(f"difference: to {names[0]}, mean over the folds ± its standard error, which is "
                  f"rather too small, because folds share training rows", style="dim")  # fmt: skip
    for name in names:
        if problem := compared["scores"][name].get("not_paired"):
            console.print(f"{name}: not compared fold by fold with {names[0]}: {problem}")


def _difference(entry: dict[str, Any]) -> str:
    if "difference" not in entry:
        return "-"
    mean, error = (math.nan if each is None else each for each in entry["difference"].values())
    return f"{mean:+.4f} ± {error:.4f}"


def setting_in_words(value: Any) -> str:
    """Return a setting as in a YAML file, "-" for none."""
    if value is None or value in ("", [], {}):
        return "-"
    return value if isinstance(value, str) else str(value).lower() if value in (True, False) else (
        ", ".join(map(str, value)) if isinstance(value, list) else str(value))  # fmt: skip


def files_of(folder: Path) -> dict[str, int]:
    """Return the size in bytes of every file in a folder, by its relative name."""
    return {
        path.relative_to(folder).as_posix(): path.lstat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def files_in_words(folder: Path) -> str:
    """Return the number and total size of the files in a folder."""
    sizes = files_of(folder).values()
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"


def _members(record: RunRecord) -> Table:
    metric = record.metric
    grid = _grid("member", f">{metric}", ">std. error", ">weight", ">time")
    sign = -1 if record.greater_is_better else 1
    members = sorted(
        record.summary["members"].items(),
        key=lambda each: sign * each[1]["score"] if each[1]["score"] is not None else math.inf,
    )
    for name, each in members:
        numbers = [math.nan if each[key] is None else each[key]
                   for key in ("score", "standard_error")]  # fmt: skip
        weight = f"{each['weight']:.2f}" if each["weight"] else "-"
        cells = (*map(format_score, numbers), weight, duration(each["seconds"]))
        grid.add_row(escape(name), *cells)
    return grid


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def _grid(*headings: str) -> Table:
    """Return a table without lines; a heading that begins with ">" is of a column of numbers."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        right = heading.startswith(">")
        grid.add_column(escape(heading.removeprefix(">")), header_style="bold",
                        justify="right" if right else "left", overflow="fold")  # fmt: skip
    return grid
