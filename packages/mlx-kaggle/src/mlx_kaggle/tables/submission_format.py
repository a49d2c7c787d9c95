"""What a sample submission asks for: its ids, and labels, a probability, or one column a class."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, NamedTuple

import numpy as np

from mlx_heads import get_metric
from mlx_kaggle.errors import DataError
from mlx_kaggle.tables.task import as_number, plain_spelling
from mlx_tabtext import Table, is_missing

Content = Literal["label", "probability", "classes", "value"]

# How one file spells what another spells in its own way; the first that fits a sample is taken.
_PAIRS = ("false true", "False True", "FALSE TRUE", "no yes", "No Yes", "NO YES", "n y", "N Y",
          "f t", "F T", "0 1", "0.0 1.0")  # fmt: skip
_NAMES_SHOWN = 12


class Asked(NamedTuple):
    """What is predicted, as far as a format depends on it."""

    target: str
    task: str
    metric: str
    classes: tuple[str, ...]
    id_column: str | None


@dataclass(frozen=True)
class Format:
    """The columns of a submission in their order, and what the ones that are no ids hold.

    "label": the class, as `spelling` has it. "probability": of the second class. "classes": one
    probability a column, of `classes` in turn. "value": the number predicted.
    """

    columns: tuple[str, ...]
    ids: tuple[str, ...]
    content: Content
    classes: tuple[str, ...] = ()
    spelling: dict[str, str] = field(default_factory=dict)

    @property
    def predictions(self) -> list[str]:
        """The columns that are no ids."""
        return [name for name in self.columns if name not in self.ids]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Format":
        """Rebuild from `dataclasses.asdict`, also after JSON."""
        lists = {name: tuple(values[name]) for name in ("columns", "ids", "classes")}
        return cls(**{**values, **lists})

    def __str__(self) -> str:
        names = self.predictions
        what = {
            "label": f"the class in {names[0]!r}",
            "probability": f"the probability of {''.join(self.classes[-1:])!r} in {names[0]!r}",
            "value": f"the number in {names[0]!r}",
            "classes": f"probabilities in {_some(names)}, of the classes {_some(self.classes)}",
        }[self.content]
        ids = f"ids in {', '.join(map(repr, self.ids))}, " if self.ids else ""
        return ids + what


def read_format(
    sample: Table, file: str, asked: Asked, test: Table | None, train: Table | None = None
) -> Format:
    """What the columns and cells of a sample ask for. Raises `DataError` where they fit nothing."""
    columns = tuple(sample)
    ids = _id_columns(columns, asked, test if test is not None else train)
    names = [name for name in columns if name not in ids]
    one = len(names) == 1
    if asked.task == "regression":
        if one:
            return Format(columns, ids, "value")
        raise DataError(
            f"{file}: one number is predicted, {asked.target!r}, but besides the ids "
            f"({_some(ids)}) it has {len(names)} columns: {_some(names)}"
        )
    if one:
        return _one_column(columns, ids, sample[names[0]], file, asked)
    matched = _match(names, asked.classes)
    if matched:
        return Format(columns, ids, "classes", matched)
    raise DataError(
        f"{file}: its columns besides the ids ({_some(ids)}) are neither one prediction nor one "
        f"column a class: {_some(names)}; the {len(asked.classes)} classes of {asked.target!r}: "
        f"{_some(asked.classes)}"
    )


def default_format(asked: Asked) -> Format:
    """Without a sample: the id, and labels, or probabilities where the metric needs them."""
    ids = (asked.id_column,) if asked.id_column else ()
    if asked.task == "regression":
        return Format((*ids, asked.target), ids, "value")
    if get_metric(asked.metric).needs != "probability":
        return Format((*ids, asked.target), ids, "label")
    return probability_format(Format((*ids, asked.target), ids, "label"), asked)


def probability_format(form: Format, asked: Asked) -> Format:
    """The same with probabilities in place of labels."""
    if form.content != "label":
        return form
    if len(asked.classes) == 2:
        return Format(form.columns, form.ids, "probability", asked.classes)
    return Format((*form.ids, *asked.classes), form.ids, "classes", asked.classes)


def place_rows(
    form: Format, sample: Table, file: str, test: Table, test_file: str
) -> tuple[dict[str, list[Any]], np.ndarray, list[str]]:
    """The sample's ids, the position in `test` of each of its rows, and notes.

    Raises `DataError` when ids repeat, or the sample has some that the test table lacks.
    """
    if not form.ids:
        rows, wanted = _rows(test), _rows(sample)
        if rows != wanted:
            raise DataError(f"{test_file}: {rows} rows; {file}, which has no ids, has {wanted}")
        return {}, np.arange(rows), []
    wanted = _keys([sample[name] for name in form.ids], form.ids, file)
    sources = [_source(name, sample[name], file, test, test_file, form) for name in form.ids]
    found = _keys([test[name] for name in sources], sources, test_file)
    missing = [key for key in wanted if key not in found]
    if missing:
        raise DataError(
            f"{file}: {len(missing)} of its {len(wanted)} ids are not in {test_file} (first: row "
            f"{wanted[missing[0]] + 2}, {', '.join(missing[0])!r}); give the two that belong "
            f"together"
        )
    extra = len(found) - len(wanted)
    first = next((key for key in found if key not in wanted), ())
    notes = [f"{extra} of {len(found)} rows of {test_file} are not in {file} and not written "
             f"(first: {', '.join(first)!r})"] if extra else []  # fmt: skip
    ids = {name: list(sample[name]) for name in form.ids}
    return ids, np.array([found[key] for key in wanted]), notes


def _id_columns(columns: Sequence[str], asked: Asked, known: Table | None) -> tuple[str, ...]:
    """The leading columns that the test table (or train) has; the first one in any case."""
    there = set(known or ()) | {asked.id_column}
    ids = tuple(takewhile(lambda name: name in there and name != asked.target, columns))
    ids = ids[:-1] if len(ids) == len(columns) else ids
    return ids or (columns[:1] if len(columns) > 1 else ())  # type: ignore[return-value]


def _one_column(
    columns: tuple[str, ...], ids: tuple[str, ...], cells: Sequence[Any], file: str, asked: Asked
) -> Format:
    """A label or, of two classes, a probability: by the cells, and by the metric for 0 and 1."""
    (name,) = [each for each in columns if each not in ids]
    values = {str(cell).strip() for cell in cells if not is_missing(cell)}
    numbers = [as_number(value) for value in values]
    shares = all(number is not None and 0 <= number <= 1 for number in numbers)
    between = shares and any(number not in (0, 1) for number in numbers)
    wanted = get_metric(asked.metric).needs == "probability"
    spelling = None if between else find_spelling(values, asked.classes)
    if len(asked.classes) == 2 and shares and (between or wanted):
        return Format(columns, ids, "probability", asked.classes)
    if spelling is None:
        wrong = sorted(values - {plain_spelling(each) for each in asked.classes})
        raise DataError(
            f"{file}: column {name!r} holds {_some(wrong)}, which is no class of {asked.target!r} "
            f"({_some(asked.classes)})"
        )
    return Format(columns, ids, "label", asked.classes, spelling)


def find_spelling(values: set[str], classes: Sequence[str]) -> dict[str, str] | None:
    """How a sample that holds `values` spells the classes, `None` if they are something else."""
    for spell in _spellings(classes):
        spelled = {label: spell(label) for label in classes}
        if values <= set(spelled.values()) and len(set(spelled.values())) == len(classes):
            return spelled
    return None


def _spellings(classes: Sequence[str]) -> Iterator[Callable[[str], str]]:
    yield str
    if all(as_number(label) is not None for label in classes):
        yield lambda label: f"{float(label):.15g}"
        yield lambda label: f"{float(label):.1f}"
    yield from (str.upper, str.lower, str.capitalize, str.title)
    plain = [plain_spelling(label) for label in classes]
    if any(sorted(plain) == sorted(map(plain_spelling, pair.split())) for pair in _PAIRS):
        first = {plain_spelling(pair.split()[0]) for pair in _PAIRS}
        for pair in _PAIRS:
            no, yes = pair.split()
            yield lambda label, no=no, yes=yes: no if plain_spelling(label) in first else yes


def _match(names: Sequence[str], classes: Sequence[str]) -> tuple[str, ...] | None:
    """The class of each column: named like it, but for a beginning and end common to all columns.

    `None` unless each class has exactly one column.
    """
    if len(names) != len(classes) or len(set(names)) != len(names):
        return None
    beginning, end = _shared(names), _shared([name[::-1] for name in names])
    for spell in (str, plain_spelling):
        of = {spell(label): label for label in classes}
        for start in range(beginning + 1):
            for stop in range(end + 1):
                cut = [spell(name[start : len(name) - stop]) for name in names]
                if len(of) == len(set(cut)) and set(cut) == set(of):
                    return tuple(of[each] for each in cut)
    return None


def _shared(names: Sequence[str]) -> int:
    """How many characters all names begin with."""
    return sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False)))


def _source(
    name: str, ids: Sequence[Any], file: str, test: Table, test_file: str, form: Format
) -> str:
    """The test column that an id column of the sample repeats, by name or else by its cells."""
    if name in test:
        return name
    wanted = {str(cell).strip() for cell in ids}
    for other, cells in test.items():
        if other not in form.ids and wanted <= {str(cell).strip() for cell in cells}:
            return other
    first = str(ids[0]).strip() if ids else ""
    raise DataError(
        f"{file}: its ids, column {name!r} (first: {first!r}), stand in no column of {test_file} "
        f"({_some(list(test))})"
    )


def _keys(
    columns: Sequence[Sequence[Any]], names: Sequence[str], file: str
) -> dict[tuple[str, ...], int]:
    """The row of each id, of several columns taken together."""
    rows: dict[tuple[str, ...], int] = {}
    for row, cells in enumerate(zip(*columns, strict=True)):
        key = tuple(str(cell).strip() for cell in cells)
        if key in rows:
            raise DataError(
                f"{file}, row {row + 2}: id {', '.join(key)!r} of column {', '.join(names)!r} "
                f"stands in row {rows[key] + 2} already"
            )
        rows[key] = row
    return rows


def _rows(table: Table) -> int:
    return len(next(iter(table.values()), []))


def _some(names: Sequence[str]) -> str:
    more = f", ... {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(names[:_NAMES_SHOWN]) or "none") + more
