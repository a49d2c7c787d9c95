"""Read tables from files with typed cells: JSON, parquet, Excel."""

import io
import json
import logging
import zipfile
from collections.abc import Iterable
from itertools import compress, zip_longest
from typing import Any

from mlx_tabtext.delimited import column_names, decode
from mlx_tabtext.table import Table, TableError, plain_cell

_LARGEST_WHOLE = 2**53  # float64 represents every integer up to here

_log = logging.getLogger(__name__)


def parse_json(label: str, raw: bytes) -> Table:
    """Parse an array of objects, or one object per line."""
    text = _json_text(label, raw)
    if not text.lstrip().startswith("["):
        return parse_json_lines(label, raw)
    rows = _load(label, "", text)
    return _table_of_rows(label, ((f"record {at}", row) for at, row in enumerate(rows, start=1)))


def parse_json_lines(label: str, raw: bytes) -> Table:
    """Parse one object per line, skipping blank lines. Errors count lines of the file."""
    lines = enumerate(_json_text(label, raw).split("\n"), start=1)
    rows = ((f"row {at}", line) for at, line in lines if line.strip())
    return _table_of_rows(label, ((where, _load(label, where, line)) for where, line in rows))


def _json_text(label: str, raw: bytes) -> str:
    text = decode(label, raw)
    if not text.strip():
        raise TableError(f"{label}: the file is empty; it should have one JSON object per line")
    return text


def _load(label: str, where: str, text: str) -> Any:
    try:
        found = json.loads(text, object_pairs_hook=_unique)
        if "\\u" in text:  # may be a lone surrogate, which UTF-8 cannot encode
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
    found: list[dict[str, Any]] = []
    for where, row in rows:
        if not isinstance(row, dict):
            raise TableError(
                f"{label}: {where}: {type(row).__name__}, not an object of column names and cells"
            )
        found.append(row)
    names = list(dict.fromkeys(name for row in found for name in row))
    if not names:
        raise TableError(f"{label}: no columns; each row is an object of column names and cells")
    return _table_of_columns(label, {name: [row.get(name) for row in found] for name in names})


def parse_parquet(label: str, raw: bytes) -> Table:
    """Parse a parquet file with pyarrow."""
    try:
        import pyarrow
        from pyarrow.parquet import read_table as read_parquet
    except ImportError:
        raise TableError(
            f"{label}: a parquet file needs pyarrow; pip install 'mlx-tabtext[parquet]'"
        ) from None
    try:
        frame = read_parquet(pyarrow.BufferReader(raw))
        columns = {name: frame[at].to_pylist() for at, name in enumerate(frame.column_names)}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise TableError(f"{label}: damaged parquet file ({reason})") from None
    if len(columns) < len(frame.column_names):
        twice = max(frame.column_names, key=frame.column_names.count)
        raise TableError(f"{label}: column name {twice!r} occurs twice; rename one")
    return _table_of_columns(label, columns)


def parse_workbook(label: str, raw: bytes) -> Table:
    """Parse the first sheet with openpyxl; its first row that is not blank is the header.

    A logged warning names the other sheets. Blank rows are skipped. A formula is read as its stored
    value; a formula without one is an error. Errors count rows of the sheet.
    """
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise TableError(
            f"{label}: an Excel workbook needs openpyxl; pip install 'mlx-tabtext[xlsx]'"
        ) from None
    try:
        values, formulas = (
            _first_sheet(label, load_workbook(io.BytesIO(raw), read_only=True, data_only=stored))
            for stored in (True, False)
        )
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{label}: damaged Excel workbook ({error}); save it again") from None
    rows = [(row, cells) for row, cells in enumerate(values, start=1) if any(map(_filled, cells))]
    _check_formulas(label, values, formulas)
    if not rows:
        raise TableError(f"{label}: the first sheet is empty; it should start with column names")
    (first, header), *body = rows
    wide = max((at for at, cell in enumerate(header, start=1) if _filled(cell)), default=0)
    for row, cells in body:
        used = max(at for at, cell in enumerate(cells, start=1) if _filled(cell))
        if used > wide:
            raise TableError(
                f"{label}: row {row}: {used} cells, but the header in row {first} has {wide} "
                "columns; name every column in the first row"
            )
    names = column_names(label, first, ["" if n is None else str(n) for n in header[:wide]])
    columns = {name: [] for name in names}
    for _, cells in body:
        for column, cell in zip_longest(columns.values(), cells[:wide]):
            column.append(cell if _filled(cell) else None)
    return _table_of_columns(label, columns)


def _first_sheet(label: str, book: Any) -> list[tuple]:
    sheet, *others = book.worksheets
    if others and not getattr(book, "data_only", False):
        names = ", ".join(repr(each.title) for each in others[:5])
        _log.warning("%s: read the first sheet, %r; not read: %s", label, sheet.title, names)
    sheet.reset_dimensions()  # the size that a file claims may be too small
    rows = list(sheet.iter_rows(values_only=True))
    book.close()
    return rows


def _check_formulas(label: str, values: list[tuple], formulas: list[tuple]) -> None:
    for row, (stored, written) in enumerate(zip(values, formulas, strict=True), start=1):
        for at, (value, formula) in enumerate(zip(stored, written, strict=True), start=1):
            if value is None and isinstance(formula, str) and formula.startswith("="):
                raise TableError(
                    f"{label}: row {row}, column {at}: the formula {formula[:40]!r} has no stored "
                    "value; open the file in a spreadsheet program and save it"
                )


def _filled(cell: object) -> bool:
    return cell is not None and cell != ""


def _table_of_columns(label: str, columns: dict[str, list]) -> Table:
    """Return a table: nested cells as JSON text, whole floats as integers."""
    for name, cells in columns.items():
        nested = [at for at, cell in enumerate(cells) if isinstance(cell, list | dict | tuple)]
        for at in nested:
            cells[at] = json.dumps(cells[at], ensure_ascii=False, default=str)
        if nested:
            found = f"lists or objects in {len(nested)} cells"
            _log.warning("%s: column %r: %s, read as JSON text", label, name, found)
    try:
        return {
            name: _whole([plain_cell(cell, name, row) for row, cell in enumerate(cells, start=1)])
            for name, cells in columns.items()
        }
    except TableError as error:
        raise TableError(f"{label}: {error}") from None


def _whole(cells: list) -> list:
    """Return integers if all floats are whole: files store integers with gaps as floats."""
    finite = [isinstance(cell, float) and abs(cell) != float("inf") for cell in cells]
    floats = compress(cells, finite)
    if not all(each.is_integer() and abs(each) <= _LARGEST_WHOLE for each in floats):
        return cells
    return [int(cell) if convert else cell for cell, convert in zip(cells, finite, strict=True)]
