"""Read tables from files: the ending determines the format; contradicting content is an error."""

import gzip
import io
import json
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NoReturn

from mlx_tabtext._suggest import did_you_mean
from mlx_tabtext.delimited import parse_csv
from mlx_tabtext.table import Table, TableError
from mlx_tabtext.typed_files import parse_json, parse_json_lines, parse_parquet, parse_workbook

TABLE_ENDINGS = (
    *(".csv", ".csv.gz", ".csv.zip", ".zip", ".tsv", ".tsv.gz", ".parquet"),
    *(".jsonl", ".jsonl.gz", ".ndjson", ".json", ".xlsx"),
)
"""Endings of the files that `read_table` reads; any other is read as delimited text."""

_PARSERS = {  # ending: parser, expected file type, content types that the parser accepts
    ".parquet": (parse_parquet, "a parquet file", ("a parquet file",)),
    ".jsonl": (parse_json_lines, "a JSON file", ("JSON", None)),
    ".ndjson": (parse_json_lines, "a JSON file", ("JSON", None)),
    ".json": (parse_json, "a JSON file", ("JSON", None)),
    ".xlsx": (parse_workbook, "an Excel workbook", ("an Excel workbook",)),
}

_FIRST_BYTES = {  # first bytes: file type, remedy
    b"PK\x03\x04": ("a zip archive", "unpack or convert it first"),
    b"\x1f\x8b": ("a gzip file", "rename it so that it ends in .gz"),
    b"PAR1": ("a parquet file", "rename it so that it ends in .parquet"),
    b"ARROW1": ("an Arrow file", "save it as parquet or CSV"),
    b"BZh": ("a bzip2 file", "unpack it first"),
    b"\xfd7zXZ": ("an xz file", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("a zstd file", "unpack it first"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it first"),
    b"Rar!": ("a rar archive", "unpack it first"),
    b"\xd0\xcf\x11\xe0": ("an old Excel file", "save it as .xlsx or CSV"),
    b"%PDF": ("a PDF", "give a table"),
    b"SQLite format 3": ("an SQLite database", "save one of its tables as CSV"),
    b"\x89HDF": ("an HDF5 file", "save it as parquet or CSV"),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the file itself: git lfs pull"),
}
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")


def read_table(path: str | Path, *, separator: str | None = None) -> Table:
    """Read a table from a file. The ending determines the format.

    `.csv`, `.tsv` and unknown endings: see `read_csv`; only these use `separator`. `.jsonl`,
    `.ndjson`, `.json`: one object per line (`.json` also an array of objects); a missing key is a
    missing cell. `.parquet`: needs pyarrow (the extra `parquet`). `.xlsx`: needs openpyxl (the
    extra `xlsx`), reads the first sheet. Also `.gz` of these, and `.zip` with one of these.

    Typed cells keep their type, with two exceptions: float columns of whole numbers become
    integers; lists and objects become JSON text with a logged warning. Raises `TableError` with
    file, row and column, also for content that contradicts the ending.
    """
    path = Path(path)
    label, name, raw = _unpack(str(path), path.name.lower(), _read_bytes(path))
    ending = PurePosixPath(name).suffix
    if ending in _PARSERS:
        parse, wanted, accepted = _PARSERS[ending]
        found = _recognize(raw)
        if (found[0] if found else None) not in accepted:
            _refuse(label, raw, wanted)
        return parse(label, raw)
    if ending == ".tsv" and separator is None and b"\t" in raw.partition(b"\n")[0]:
        separator = "\t"
    return _parse_csv(label, raw, separator)


def read_csv(path: str | Path, *, separator: str | None = None) -> Table:
    """Read a CSV file with a header line. Cells are text, or `None` if empty.

    The default `separator` is detected: comma, semicolon, tab or `|`. The encoding is UTF-8, UTF-16
    with a byte order mark, or else Windows-1252 with a logged warning. Quoted cells may contain
    line breaks; blank lines are skipped; an empty column name becomes `Unnamed: 3` (position from
    0, as in pandas). A file with only a header is a table without rows. Raises `TableError` with
    the line number.
    """
    path = Path(path)
    return _parse_csv(str(path), _read_bytes(path), separator)


def _parse_csv(label: str, raw: bytes, separator: str | None) -> Table:
    if _recognize(raw) is not None:
        _refuse(label, raw, "a CSV file")
    return parse_csv(label, raw, separator=separator)


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise TableError(f"{path}: a directory; give the CSV file in it")
    if not path.exists():
        beside = sorted(each.name for each in path.parent.glob("*.*") if each.is_file())
        hint = did_you_mean(path.name, beside) if beside else "; check the path"
        raise TableError(f"{path}: no such file{hint}")
    return path.read_bytes()


def _unpack(label: str, name: str, raw: bytes) -> tuple[str, str, bytes]:
    """Return label for messages, name and content, unpacked from a .gz or .zip."""
    if name.endswith(".gz"):
        return label, name.removesuffix(".gz"), _gunzip(label, raw)
    if name.endswith(".zip"):
        member, content = _unzip(label, raw)
        return f"{label} ({member})", member.lower(), content
    return label, name, raw


def _gunzip(label: str, raw: bytes) -> bytes:
    if not raw.startswith(b"\x1f\x8b"):
        _refuse(label, raw, "a gzip file")
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise TableError(f"{label}: damaged gzip file ({error}); download it again") from None


def _unzip(label: str, raw: bytes) -> tuple[str, bytes]:
    if not raw.startswith(b"PK"):
        _refuse(label, raw, "a zip archive")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if "xl/workbook.xml" in archive.namelist():
                _refuse(label, raw, "a zip archive with a table in it")
            member = _only_table(label, [each for each in archive.namelist() if each[-1] != "/"])
            return member, archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        reason = "it has a password" if "password" in str(error) else f"damaged: {error}"
        raise TableError(f"{label}: cannot unpack this zip archive ({reason})") from None


def _only_table(label: str, members: list[str]) -> str:
    """Return the only table in an archive, ignoring hidden and macOS resource files."""
    names = [
        name for name in members if "__MACOSX" not in name and PurePosixPath(name).name[0] != "."
    ]
    tables = [name for name in names if name.lower().endswith((".csv", ".tsv", *_PARSERS))]
    if len(tables) == 1:
        return tables[0]
    shown = tables or names
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    what = f"{len(tables)} tables" if tables else "no table"
    listed = f": {', '.join(shown[:5])}{more}" if shown else ""
    raise TableError(f"{label}: has {what}{listed}; unpack it, then give the one table to read")


def _refuse(label: str, raw: bytes, wanted: str) -> NoReturn:
    if not raw:
        raise TableError(f"{label}: the file is empty; it should be {wanted}")
    what, remedy = _recognize(raw) or _unknown(raw)
    raise TableError(f"{label}: {what}, not {wanted}; {remedy}")


def _recognize(raw: bytes) -> tuple[str, str] | None:
    """Return the file type and a remedy, or `None` if the content may be delimited text."""
    for start, found in _FIRST_BYTES.items():
        if raw.startswith(start):
            if start == b"PK\x03\x04" and b"xl/" in raw:
                return "an Excel workbook", "rename it so that it ends in .xlsx"
            return found
    head = raw[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.lower().startswith(_HTML):
        return "an HTML page", "download it again: it may be a login or error page"
    if head.startswith((b"{", b"[")) and _is_json(raw):
        return "JSON", "rename it so that it ends in .jsonl or .json"
    return None


def _is_json(raw: bytes) -> bool:
    """Return whether this is one JSON object per line, or an array of objects."""
    text = raw.decode("utf-8-sig", "replace").lstrip()
    first = text if text.startswith("[") else text.partition("\n")[0]
    try:
        found = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(found[0] if isinstance(found, list) and found else found, dict)


def _unknown(raw: bytes) -> tuple[str, str]:
    if b"\0" in raw[:10_000]:
        return "unknown data", "check how it was made, or download it again"
    return "text", "rename it so that it ends in .csv if it is delimited text"
