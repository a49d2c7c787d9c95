"""Read tasks of CORE (DCLM, arXiv 2406.11794) from a folder: DCLM's bundle, or JSON lines files.

The bundle has `core.yaml` (tasks), `eval_data/` (rows) and `eval_meta_data.csv` (accuracies of
guessing). In a folder without `core.yaml` each `.jsonl` file is a task; the keys of its rows
determine its type:

- `query`, `choices`, `gold`: multiple_choice
- `context_options`, `continuation`, `gold`: schema
- `context`, `continuation`: language_modeling
"""

import csv
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mlx_gpt.data.fields import get_gold, get_options, get_text
from mlx_gpt.data.rows import read_rows
from mlx_trainer import did_you_mean

Kind = Literal["multiple_choice", "schema", "language_modeling"]

_SHUFFLE_SEED = 1337  # DCLM's


@dataclass(frozen=True)
class Example:
    """Pairs of a context and a continuation; the pair with index `gold` is correct.

    In multiple choice the contexts are equal, in a schema the continuations; language modeling has
    a single pair.
    """

    pairs: tuple[tuple[str, str], ...]
    gold: int = 0


@dataclass(frozen=True)
class CoreTask:
    """Examples of one type; `baseline` is the accuracy of guessing, in [0, 1).

    `shots` solved examples precede each question; `delimiter` separates a context from its
    continuation.
    """

    name: str
    kind: Kind
    examples: tuple[Example, ...]
    baseline: float
    shots: int = 0
    delimiter: str = " "

    def __post_init__(self):
        if not 0 <= self.shots < len(self.examples):
            raise ValueError(
                f"task {self.name}: {self.shots} shots need as many examples besides the question, "
                f"got {len(self.examples)} examples in total"
            )


def read_core_tasks(
    folder: Path, max_per_task: int | None = None, shots: int = 0
) -> list[CoreTask]:
    """Return the tasks of a folder, in the order of `core.yaml` or of the file names.

    At most `max_per_task` examples of each are kept, after a shuffle with a fixed seed. `shots`
    applies to folders without `core.yaml`, which has its own. Raises `ValueError` with file and
    line for malformed content.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if (folder / "core.yaml").exists():
        return _read_bundle(folder, max_per_task)
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ValueError(f"{folder}: neither core.yaml nor .jsonl files")
    return [read_task(path, max_per_task, shots) for path in files]


def read_task(path: Path, max_examples: int | None = None, shots: int = 0) -> CoreTask:
    """Return the task of one file; arguments and errors as of `read_core_tasks`."""
    rows = list(read_rows(path))
    kind = detect_kind(rows[0][1], rows[0][0])
    examples = [parse_example(row, kind, where) for where, row in rows]
    guessed = 0.0
    if kind != "language_modeling":
        guessed = sum(1 / len(example.pairs) for example in examples) / len(examples)
    # DCLM's delimiter for such questions, which a bare file cannot specify.
    framed = all(example.pairs[0][0].startswith("Question:") for example in examples)
    delimiter = "\nAnswer: " if kind == "multiple_choice" and framed else " "
    kept = _sample(examples, max_examples)
    return CoreTask(path.stem, kind, kept, guessed, shots, delimiter)


def parse_example(row: dict, kind: Kind, where: str) -> Example:
    """Return the example of a row; `where` is the prefix of errors."""
    if kind == "language_modeling":
        context, continuation = row.get("context"), get_text(row, "continuation", where)
        if not isinstance(context, str):
            raise ValueError(f"{where}: 'context' must be a text, got {context!r}")
        return Example(((context.strip(), continuation),))
    if kind == "multiple_choice":
        query, choices = get_text(row, "query", where), get_options(row, "choices", where)
        pairs = tuple((query, choice) for choice in choices)
    else:
        options = get_options(row, "context_options", where)
        continuation = get_text(row, "continuation", where)
        pairs = tuple((option, continuation) for option in options)
    return Example(pairs, get_gold(row, len(pairs), where))


def detect_kind(row: dict, where: str) -> Kind:
    """Return the type of task that has the keys of a row."""
    for key, kind in _KIND_BY_KEY.items():
        if key in row:
            return kind
    raise ValueError(
        f"{where}: expected one of the keys {', '.join(_KIND_BY_KEY)}, got {', '.join(row)}"
    )


_KIND_BY_KEY: dict[str, Kind] = {
    "choices": "multiple_choice",
    "context_options": "schema",
    "context": "language_modeling",
}


def _sample(examples: Iterable[Example], most: int | None) -> tuple[Example, ...]:
    shuffled = list(examples)
    random.Random(_SHUFFLE_SEED).shuffle(shuffled)
    return tuple(shuffled[:most])


def _read_bundle(folder: Path, max_per_task: int | None) -> list[CoreTask]:
    import yaml

    path = folder / "core.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    entries = content.get("icl_tasks") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of tasks under 'icl_tasks'")
    baselines = _read_baselines(folder / "eval_meta_data.csv")
    return [
        _bundle_task(folder, entry, f"{path}, task {number}", baselines, max_per_task)
        for number, entry in enumerate(entries, start=1)
    ]


def _bundle_task(
    folder: Path, entry: dict, where: str, baselines: dict[str, float], max_per_task: int | None
) -> CoreTask:
    """Return one task of `core.yaml`; keys that do not affect the score are ignored."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected keys and values, got {entry!r}")
    name = get_text(entry, "label", where)
    kind = _known_kind(get_text(entry, "icl_task_type", where), f"{where} ({name})")
    delimiter = entry.get("continuation_delimiter", " ")
    if not isinstance(delimiter, str):
        raise ValueError(
            f"{where} ({name}): 'continuation_delimiter' must be a text, got {delimiter!r}"
        )
    if name not in baselines:
        raise ValueError(f"{where}: {name!r} is not in {folder / 'eval_meta_data.csv'}")
    data = folder / "eval_data"
    path = data / get_text(entry, "dataset_uri", where)
    if not path.resolve().is_relative_to(data.resolve()) or not path.is_file():
        raise ValueError(f"{where} ({name}): 'dataset_uri' names no file in {data}: {path}")
    examples = [parse_example(row, kind, row_where) for row_where, row in read_rows(path)]
    kept = _sample(examples, max_per_task)
    return CoreTask(name, kind, kept, baselines[name], _shots(entry, where), delimiter)


def _known_kind(given: str, where: str) -> Kind:
    for kind in get_args(Kind):
        if kind == given:
            return kind
    near = did_you_mean(given, get_args(Kind))
    raise ValueError(f"{where}: icl_task_type {given!r} is unknown{near}")


def _shots(entry: dict, where: str) -> int:
    """Return the first number of shots, which defines CORE."""
    shots = entry.get("num_fewshot")
    first = shots[0] if isinstance(shots, list) and shots else None
    if not isinstance(first, int) or first < 0:
        raise ValueError(f"{where}: 'num_fewshot' must be a list of numbers, got {shots!r}")
    return first


def _read_baselines(path: Path) -> dict[str, float]:
    """Return each task's accuracy of guessing in [0, 1); the file has percent."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a folder with core.yaml must have it")
    found = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            try:
                name, percent = row["Eval Task"], float(row["Random baseline"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{where}: expected a name under 'Eval Task' and a number under "
                    "'Random baseline'"
                ) from None
            if not 0 <= percent < 100:
                raise ValueError(f"{where}: 'Random baseline' must be in [0, 100), got {percent}")
            found[name] = percent / 100
    return found
