"""Delimited text (CSV, TSV) to tables, with the row in every error."""

import csv
import io
import logging
from collections.abc import Iterator

from mlx_tabtext.table import Table, TableError

SEPARATORS = (",", ";", "\t", "|")

_SAMPLE_ROWS = 50
_LONGEST_CELL = 2**31 - 1  # csv's own limit of 131072 characters is shorter than some texts

_log = logging.getLogger(__name__)


def parse_csv(label: str, raw: bytes, *, separator: str | None = None) -> Table:
    """Parse the content of a file, see `read_csv`; `label` names the file in errors."""
    text = decode(label, raw)
    if not text.strip():
        raise TableError(f"{label}: the file is empty; a CSV file starts with a line of names")
    if separator is None:
        separator = _find_separator(text)
    elif len(separator) != 1:
        raise TableError(f"separator must be one character, not {separator!r}")
    records = _records(label, text, separator)
    header_row, header = next(records)
    names = column_names(label, header_row, header)
    columns: list[list[str | None]] = [[] for _ in names]
    for row, cells in records:
        if len(cells) != len(names):
            raise TableError(
                f"{label}: row {row}: {len(cells)} cells, but the header has {len(names)} "
                f"columns; put cells that contain {separator!r} in double quotes"
            )
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell or None)
    return dict(zip(names, columns, strict=True))


def decode(label: str, raw: bytes) -> str:
    """Decode UTF-8, UTF-16 with a byte order mark, or Windows-1252 with a logged warning."""
    try:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = raw.decode("utf-16")
        else:
            text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = _decode_windows(label, raw, error)
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise TableError(f"{label}: row {row}: a NUL byte; this is a binary file or a damaged CSV")
    return text


def _decode_windows(label: str, raw: bytes, error: UnicodeDecodeError) -> str:
    row = raw.count(b"\n", 0, error.start) + 1
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError:
        raise TableError(
            f"{label}: row {row}: neither UTF-8 nor Windows-1252 text; "
            "save the file as UTF-8, or check that it is a CSV file"
        ) from None
    _log.warning("%s: row %d is not UTF-8; read as Windows-1252", label, row)
    return text


def _records(label: str, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, cells) for each record, without blank lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    old_limit = csv.field_size_limit(_LONGEST_CELL)
    row = 1
    try:
        for cells in reader:
            if cells:
                yield row, cells
            row = reader.line_num + 1
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            problem = "a double quote opens here and is never closed"
        else:
            problem = f"badly quoted cell ({error}); write a quote inside a quoted cell twice"
        raise TableError(f"{label}: row {row}: {problem}") from None
    finally:
        csv.field_size_limit(old_limit)


def _find_separator(text: str) -> str:
    """Return the separator with the most cells per record, and the same number in each record.

    Fallbacks: the separator with the most cells in the header; a comma for a single column.
    """
    best = (False, 1, ",")
    for separator in SEPARATORS:
        widths = _sample_widths(text, separator)
        if not widths or widths[0] < 2:
            continue
        same = all(width == widths[0] for width in widths)
        if (same, widths[0]) > best[:2]:
            best = (same, widths[0], separator)
    return best[2]


def _sample_widths(text: str, separator: str) -> list[int]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    widths = []
    try:
        for cells in reader:
            if cells:
                widths.append(len(cells))
            if len(widths) == _SAMPLE_ROWS:
                break
    except csv.Error:  # a cell over csv's limit: use the rows before it
        return widths
    return widths


def column_names(label: str, row: int, header: list[str]) -> list[str]:
    """Return the names in a header, empty ones as `Unnamed: 3`; duplicates are an error."""
    names = [name.strip() or f"Unnamed: {position}" for position, name in enumerate(header)]
    first_at: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if name in first_at:
            raise TableError(
                f"{label}: row {row}: column name {name!r} occurs twice "
                f"(columns {first_at[name]} and {position}); rename one"
            )
        first_at[name] = position
    return names
