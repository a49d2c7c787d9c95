"""Read rows of JSON lines, JSON arrays, CSV, parquet and text; `.gz` of all but parquet.

Every row has its place, "FILE, line n": in a JSON array the line where the row begins, in parquet
its number. Rows that are no JSON objects have a problem instead of a value.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

_TEXT = (".txt", ".text", ".md", ".markdown")
_MAX_CELL = 2**31 - 1  # bytes; the csv module's limit is 131,072
# Columns of a CSV file that hold JSON.
_JSON_COLUMNS = ("messages", "conversations", "tools", "chosen", "rejected", "choices", "gold")


class Row(NamedTuple):
    """`value` is {} if there is a `problem`."""

    where: str
    value: dict[str, Any]
    problem: str = ""


def iterate_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, malformed ones included; blank lines are skipped.

    Raises `FileNotFoundError`, and `ValueError` if the file as a whole cannot be read, or is empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, not a' if path.is_dir() else 'no such'} file")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    reader = {".csv": _csv_rows, ".parquet": _parquet_rows, **dict.fromkeys(_TEXT, _text_row)}.get(
        suffix.lower(), _json_rows
    )
    empty = True
    try:
        for row in reader(path):
            empty = False
            yield row
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip file ({error})") from None
    if empty:
        expected = "one JSON object per line" if reader is _json_rows else "at least one"
        raise ValueError(f"{path}: no rows; expected {expected}")


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and value of each row; raises `ValueError` for the first malformed one."""
    for row in iterate_rows(path):
        if row.problem:
            raise ValueError(f"{row.where}: {row.problem}")
        yield row.where, row.value


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _json_rows(path: Path) -> Iterator[Row]:
    decoder = _Decoder()
    with _open(path) as file:
        if _first_character(file) == b"[":
            yield from _array_rows(path, file.read(), decoder)
            return
        # In bytes, lines end at newlines only.
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _line_row(line, f"{path}, line {number}", decoder)


def _first_character(file: BinaryIO) -> bytes:
    """Return the first byte that is no white space or byte order mark; rewinds the file."""
    character = file.read(1)
    while character and character in b" \t\r\n\xef\xbb\xbf":
        character = file.read(1)
    file.seek(0)
    return character


def _line_row(line: bytes, where: str, decoder: "_Decoder") -> Row:
    try:
        text = line.decode("utf-8-sig")
        value, end, problem = decoder.decode(text, _skip_space(text, 0))
        if text[end:].strip():
            raise json.JSONDecodeError("Extra data", text, end)
    except ValueError as error:  # also invalid UTF-8
        return Row(where, {}, f"not JSON ({error})")
    return _checked(value, where, problem)


def _array_rows(path: Path, content: bytes, decoder: "_Decoder") -> Iterator[Row]:
    """Yield the elements of a JSON array; nothing after broken JSON can be read."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not JSON ({error})") from None
    place = counted = _skip_space(text, 0)
    line = text.count("\n", 0, place) + 1
    separator = "["  # then a comma
    while text[place : place + 1] == separator:
        place = _skip_space(text, place + 1)
        line, counted = line + text.count("\n", counted, place), place
        where = f"{path}, line {line}"
        if separator == "[" and text[place : place + 1] == "]":
            return
        try:
            value, end, problem = decoder.decode(text, place)
        except ValueError as error:
            raise ValueError(f"{where}: not JSON ({error}); the rest cannot be read") from None
        yield _checked(value, where, problem)
        place, separator = _skip_space(text, end), ","
    if text[place : place + 1] == "]":
        place = _skip_space(text, place + 1)
    if place < len(text) or not text.rstrip().endswith("]"):
        line += text.count("\n", counted, place)
        raise ValueError(
            f"{path}, line {line}: expected a comma or the end of the array; a file holds "
            "one array, or an object in each line"
        )


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CELL)
    with _open(path) as file:
        lines = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise ValueError(f"{path}, line 1: two columns have the same name")
        while True:
            where = f"{path}, line {reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"{where}: not CSV ({error})") from None
            if cells is None:
                return
            if cells:
                yield _csv_row(header, cells, where)


def _csv_row(header: list[str], cells: list[str], where: str) -> Row:
    if len(cells) != len(header):
        return Row(where, {}, f"{len(cells)} cells, but the header has {len(header)}")
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return Row(where, {}, "not UTF-8")
    value: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in _JSON_COLUMNS:
        if value.get(name, "")[:1] in ("[", "{") or (name == "gold" and name in value):
            try:
                value[name] = json.loads(value[name])
            except ValueError as error:
                return Row(where, {}, f"{name} is not JSON ({error})")
    return Row(where, value)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        for number, value in enumerate(
            (row for batch in file.iter_batches() for row in batch.to_pylist()), start=1
        ):
            yield Row(f"{path}, row {number}", _without_nulls(value))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: not parquet ({error})") from None


def _text_row(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error})") from None
    if text.strip():
        yield Row(f"{path}, line 1", {"text": text})


def _without_nulls(value: Any) -> Any:
    """Return a parquet value without the keys that only other rows have."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _checked(value: object, where: str, problem: str) -> Row:
    if problem:
        return Row(where, {}, problem)
    if not isinstance(value, dict):
        return Row(where, {}, f"expected a JSON object, got {type(value).__name__}")
    return Row(where, value)


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


class _Decoder:
    """Decodes JSON, and notes what Python's decoder accepts although its meaning is unclear."""

    def __init__(self):
        self._problem = ""
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant
        )

    def decode(self, text: str, begin: int) -> tuple[object, int, str]:
        """Return the value that begins there, its end, and the problem with it, if any."""
        self._problem = ""
        try:
            value, end = self._decoder.raw_decode(text, begin)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return value, end, self._problem

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self._problem = f"the key {twice!r} is there twice"
        return found

    def _constant(self, name: str) -> float:
        self._problem = f"{name} is not JSON"
        return float(name)
