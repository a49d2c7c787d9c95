"""What a file holds by its first bytes, and the error for one that is not what its name says."""

import json
from typing import NoReturn

from mlx_tabtext.table import TableError

_STARTS = {
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


def refuse(label: str, raw: bytes, wanted: str) -> NoReturn:
    """Raise `TableError` for bytes that are not `wanted`, naming what they are."""
    if not raw:
        raise TableError(f"{label}: the file is empty; it should be {wanted}")
    what, remedy = recognize(raw) or _unknown(raw)
    raise TableError(f"{label}: {what}, not {wanted}; {remedy}")


def recognize(raw: bytes) -> tuple[str, str] | None:
    """Return what the bytes are and what to do, or `None` where they may be delimited text."""
    for start, found in _STARTS.items():
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
    """Return whether this is one JSON object a line, or an array of objects."""
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
