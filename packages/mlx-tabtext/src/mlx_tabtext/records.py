"""JSON records to tables, and what all files of typed cells have in common."""

import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from mlx_tabtext.content import recognize, refuse
from mlx_tabtext.read import decode
from mlx_tabtext.table import Table, TableError, plain_cell

_LARGEST_WHOLE = 2**53  # floats hold every integer up to here

_log = logging.getLogger(__name__)


def parse_json(label: str, raw: bytes) -> Table:
    """Read an array of objects, or one object a line."""
    text = _json_text(label, raw)
    if not text.lstrip().startswith("["):
        return parse_json_lines(label, raw)
    rows = _load(label, "", text)
    return _table_of_rows(label, ((f"record {at}", row) for at, row in enumerate(rows, start=1)))


def parse_json_lines(label: str, raw: bytes) -> Table:
    """Read one object a line; blank lines are skipped. Rows in errors are lines of the file."""
    lines = enumerate(_json_text(label, raw).split("\n"), start=1)
    rows = ((f"row {at}", line) for at, line in lines if line.strip())
    return _table_of_rows(label, ((where, _load(label, where, line)) for where, line in rows))


def table_of_columns(label: str, columns: dict[str, list]) -> Table:
    """Return a table of typed cells: nested ones as JSON text, whole floats as integers."""
    for name, cells in columns.items():
        nested = [at for at, cell in enumerate(cells) if isinstance(cell, list | dict | tuple)]
        for at in nested:
            cells[at] = json.dumps(cells[at], ensure_ascii=False, default=str)
        if nested:
            _log.warning(
                "%s: column %r: lists or objects in %d cells, read as JSON text",
                label,
                name,
                len(nested),
            )
    try:
        return {
            name: _whole([plain_cell(cell, name, row) for row, cell in enumerate(cells, start=1)])
            for name, cells in columns.items()
        }
    except TableError as error:
        raise TableError(f"{label}: {error}") from None


def _whole(cells: list) -> list:
    """Return integers for floats where all are whole: files store counts with gaps as floats."""
    floats = [cell for cell in cells if isinstance(cell, float) and abs(cell) != float("inf")]
    if not all(each.is_integer() and abs(each) <= _LARGEST_WHOLE for each in floats):
        return cells
    return [
        int(cell) if isinstance(cell, float) and abs(cell) != float("inf") else cell
        for cell in cells
    ]


def _json_text(label: str, raw: bytes) -> str:
    found = recognize(raw)
    if found is not None and found[0] != "JSON":
        refuse(label, raw, "a JSON file")
    text = decode(label, raw)
    if not text.strip():
        raise TableError(f"{label}: the file is empty; it should hold one JSON object a line")
    return text


def _load(label: str, where: str, text: str) -> Any:
    try:
        found = json.loads(text, object_pairs_hook=_unique)
        if "\\u" in text:  # JSON can spell half a character, which no file can hold
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        place = f"{label}: {where}" if where else label
        raise TableError(
            f"{place}: not JSON ({error}); each row is an object of column names and cells"
        ) from None
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {max(names, key=names.count)!r} occurs twice")
    return found


def _table_of_rows(label: str, rows: Iterable[tuple[str, Any]]) -> Table:
    found = list(_objects(label, rows))
    names = list(dict.fromkeys(name for row in found for name in row))
    if not names:
        raise TableError(f"{label}: no columns; each row is an object of column names and cells")
    return table_of_columns(label, {name: [row.get(name) for row in found] for name in names})


def _objects(label: str, rows: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    for where, row in rows:
        if not isinstance(row, dict):
            raise TableError(
                f"{label}: {where}: {type(row).__name__}, not an object of column names and cells"
            )
        yield row
