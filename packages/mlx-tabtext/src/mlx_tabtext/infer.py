"""Infer a schema from a table.

The first matching rule determines the kind of a column, and its `reason` names the rule:

1. given: `kinds`, `target`, `id_column`
2. `ignored`: all cells missing, or one value in every row
3. `id`: a different value in every row, and a name ending in "id" (or a first column that counts
   0, 1, 2, ... or 1, 2, 3, ...). A second such column is ignored.
4. `boolean`: booleans, yes/no, true/false; y/n and t/f if both letters occur. Columns of 0 and 1
   are numeric: "sex: yes" would be wrong more often than "alone: 1".
5. `date`: 95 % of the distinct cells fit one date format
6. `numeric`: 95 % of the filled cells are numbers, none with a leading zero like `007`. Integers
   with few distinct values (a passenger class) are numeric too: their order is information. Each
   column has a number format (`numbers.py`). If `1,234` may be 1234 or 1.234, the decimal mark of
   the other columns decides; if they do not, it is 1234. An infinite number counts as a number
   here, but as a missing value later.
7. `text`: many different values (over half of the rows, and over 20), or values of three or more
   words that rarely repeat
8. `categorical`: all others
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain, count

from mlx_tabtext._suggest import did_you_mean
from mlx_tabtext.dates import ISO, find_date_format
from mlx_tabtext.numbers import (
    NUMBER_SHARE,
    choose_format,
    decimal_mark,
    is_infinite,
    number_formats,
    parse_boolean,
    parse_number,
)
from mlx_tabtext.schema import Column, Kind, Schema, check_kind, humanize
from mlx_tabtext.table import Cell, Table, TableError, check_table, is_missing

_ID_WORDS = (
    *("id", "ids", "uuid", "guid", "index", "idx"),
    *("rowid", "userid", "imageid", "customerid", "objectid"),
)
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]")


def infer_schema(
    table: Table,
    *,
    target: str | Sequence[str] | None = None,
    id_column: str | None = None,
    kinds: Mapping[str, Kind] | None = None,
    labels: Mapping[str, str] | None = None,
    value_labels: Mapping[str, Mapping[str, str]] | None = None,
) -> Schema:
    """Infer the schema of a table by the rules in the docstring of this module.

    `id_column=None` infers the id, `""` means no id. In texts, `labels` replace column names and
    `value_labels` coded cells: `{"Embarked": {"S": "Southampton"}}`. A cell with a value label is
    not missing; the label of `""` replaces the missing cells of its column. Raises `TableError`
    for unknown names, equal labels, and a table without rows.
    """
    if check_table(table) == 0:
        raise TableError("no rows to infer column kinds from; the table has only a header")
    targets = [target] if isinstance(target, str) else list(target or ())
    kinds, labels, value_labels = dict(kinds or {}), dict(labels or {}), dict(value_labels or {})
    ids = [id_column] if id_column else []
    arguments = {"target": targets, "id_column": ids, "kinds": kinds, "labels": labels}
    for argument, names in {**arguments, "value_labels": value_labels}.items():
        for name in names:
            if name not in table:
                hint = did_you_mean(name, table)
                raise TableError(f"{argument}: no column {name!r} in the table{hint}")
    for name, kind in kinds.items():
        check_kind(name, kind)
        if kind in ("target", "id"):
            raise TableError(
                f"column {name!r}: give the {kind} as a separate argument, not in kinds"
            )
    if ids and id_column in targets:
        raise TableError(f"column {id_column!r} is given as both target and id_column")
    given: dict[str, Kind] = {**kinds, **dict.fromkeys(targets, "target")}
    given.update(dict.fromkeys(ids, "id"))
    all_labels = _labels(table, labels)
    find_id = id_column is None
    filled_cells = {
        name: [cell for cell in cells if _is_filled(cell, value_labels.get(name, {}))]
        for name, cells in table.items()
    }
    found = _find_numbers(table, filled_cells, given)
    columns = []
    for name, cells in table.items():
        coded, filled, numbers = dict(value_labels.get(name, {})), filled_cells[name], found[name]
        date_format = None
        if name in given:
            kind, reason = given[name], "given"
            if kind == "date":
                date_format = _date_format(name, filled) or ISO
            elif kind in ("numeric", "target"):
                reason += numbers.notes(filled, share=kind == "numeric")
        elif id_column != "" and _is_id(table, name):
            kind, reason = _id_kind(name, first=find_id)
            find_id = False
        else:
            kind, reason, date_format = _infer_kind(name, cells, filled, numbers)
        number_format = numbers.chosen if kind in ("numeric", "target") else None
        columns.append(
            Column(name, kind, all_labels[name], reason, coded, date_format, number_format)
        )
    return Schema(tuple(columns))


@dataclass(frozen=True)
class _Numbers:
    """The possible number formats of a column, the chosen one, the count of infinite cells."""

    possible: tuple[str | None, ...]
    chosen: str | None
    infinite: int

    def count(self, filled: Sequence[Cell]) -> int:
        """Return how many cells are numbers, infinite ones included."""
        return sum(parse_number(c, self.chosen) is not None or is_infinite(c) for c in filled)

    def notes(self, filled: Sequence[Cell], *, share: bool = True) -> str:
        """Return the share of numbers, an example of the number format, the infinite cells."""
        notes = []
        numbers = self.count(filled) / max(len(filled), 1)
        if share and numbers < 1:
            notes.append(f"{numbers:.1%} numbers")
        if self.chosen is not None or len(self.possible) > 1:
            texts = {cell.strip() for cell in filled if isinstance(cell, str)}
            read = [text for text in texts if parse_number(text, self.chosen) is not None]
            example = min(read, key=lambda text: (sum(map(str.isalnum, text)) - len(text), text))
            value = parse_number(example, self.chosen) or 0.0
            others = {parse_number(example, name) or 0.0 for name in self.possible} - {value}
            doubt = f", not as {min(others):.15g}" if others else ""
            notes.append(f"{example!r} is read as {value:.15g}{doubt}")
        if self.infinite:
            cells = "cell is" if self.infinite == 1 else "cells are"
            notes.append(f"{self.infinite} infinite {cells} read as missing")
        return "".join(f", {note}" for note in notes)


def _find_numbers(
    table: Table, filled_cells: Mapping[str, Sequence[Cell]], given: Mapping[str, Kind]
) -> dict[str, _Numbers]:
    formats = {
        name: number_formats(filled, share=0.0 if given.get(name) == "numeric" else NUMBER_SHARE)
        for name, filled in filled_cells.items()
    }
    decimal = _common_decimal(formats.values())
    return {
        name: _Numbers(each, choose_format(each, decimal), sum(map(is_infinite, table[name])))
        for name, each in formats.items()
    }


def _common_decimal(formats: Iterable[tuple[str | None, ...]]) -> str | None:
    """Return the decimal mark of the unambiguous columns, `None` if they disagree."""
    marks = [{decimal_mark(each) for each in possible} for possible in formats if possible]
    certain = set[str]().union(*(each for each in marks if len(each) == 1))
    return next(iter(certain)) if len(certain) == 1 else None


def _id_kind(name: str, *, first: bool) -> tuple[Kind, str]:
    reason = "first column, counts the rows"
    if _is_id_name(name):
        reason = f"100 % unique, name ends in {humanize(name).split()[-1]!r}"
    return ("id", reason) if first else ("ignored", f"{reason}, but not the id")


def _labels(table: Table, given: Mapping[str, str]) -> dict[str, str]:
    """Return a different label for each column, as JSON keys and reports need."""
    labels = dict(given)
    taken: dict[str, str] = {}
    for name, label in given.items():
        if not label.strip():
            raise TableError(f"labels: the label of {name!r} is empty")
        if label in taken:
            raise TableError(f"labels: {taken[label]!r} and {name!r} have the same label {label!r}")
        taken[label] = name
    for name in table:
        if name not in labels:
            label = humanize(name)
            choices = chain((label, name), (f"{label} {number}" for number in count(2)))
            labels[name] = next(each for each in choices if each not in taken)
            taken[labels[name]] = name
    return labels


def _is_filled(cell: Cell, value_labels: Mapping[str, str]) -> bool:
    return not is_missing(cell) or (isinstance(cell, str) and cell.strip() in value_labels)


def _is_id(table: Table, name: str) -> bool:
    cells = table[name]
    if any(is_missing(cell) or isinstance(cell, date) for cell in cells):
        return False
    if len(set(cells)) < len(cells):
        return False
    if _is_id_name(name):
        return True
    return name == next(iter(table)) and len(cells) > 1 and _counts_rows(cells)


def _is_id_name(name: str) -> bool:
    return any(word in _ID_WORDS for word in humanize(name).split()[-1:])


def _counts_rows(cells: Sequence[Cell]) -> bool:
    numbers = [parse_number(cell) for cell in cells]
    return numbers[0] in (0.0, 1.0) and all(
        number == row + numbers[0] for row, number in enumerate(numbers)
    )


def _infer_kind(
    name: str, cells: Sequence[Cell], filled: Sequence[Cell], numbers: _Numbers
) -> tuple[Kind, str, str | None]:
    if not filled:
        return "ignored", "all cells missing", None
    distinct = {str(cell).strip() for cell in filled}
    if len(distinct) == 1 and len(filled) == len(cells) > 1:
        return "ignored", f"constant: {' '.join(str(filled[0]).split())[:40]!r} in every row", None
    if _is_boolean(filled, distinct):
        return "boolean", f"only {' and '.join(sorted(distinct))}", None
    date_format = _date_format(name, filled)
    if date_format is not None:
        return "date", f"dates like {min(distinct)}", date_format
    if numbers.count(filled) >= NUMBER_SHARE * len(filled):
        if any(isinstance(cell, str) and _LEADING_ZERO.match(cell.strip()) for cell in filled):
            return "categorical", "codes with leading zeros", None
        if all(map(is_infinite, filled)):
            return "ignored", "only infinite numbers", None
        return "numeric", f"{_describe(distinct)}{numbers.notes(filled)}", None
    return *_text_kind(filled, distinct), None


def _is_boolean(filled: Sequence[Cell], distinct: set[str]) -> bool:
    if all(isinstance(cell, bool) for cell in filled):
        return True
    folded = {each.casefold() for each in distinct}
    if any(parse_number(each) is not None or parse_boolean(each) is None for each in folded):
        return False
    return len(folded) == 2 or not folded & {"y", "n", "t", "f"}


def _date_format(name: str, filled: Sequence[Cell]) -> str | None:
    if all(isinstance(cell, date) for cell in filled):
        return ISO
    texts = {str(cell).strip() for cell in filled if not isinstance(cell, bool | float)}
    if not texts:
        return None
    return find_date_format(texts, allow_compact="date" in humanize(name).split())


def _text_kind(filled: Sequence[Cell], distinct: set[str]) -> tuple[Kind, str]:
    rows = len(filled)
    words = sum(len(str(cell).split()) for cell in filled) / rows
    unique = len(distinct) / rows
    if words >= 3 and unique > 0.2:
        return "text", f"{words:.0f} words per cell, {unique:.0%} unique"
    if len(distinct) > 20 and unique > 0.5:
        return "text", f"{len(distinct)} distinct short values in {rows} cells"
    return "categorical", _describe(distinct)


def _describe(distinct: set[str]) -> str:
    return f"{len(distinct)} distinct value{'s' if len(distinct) > 1 else ''}"
