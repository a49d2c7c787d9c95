"""Tables from files of any kind: the ending decides, and contradicting content is an error."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mlx_tabtext.content import refuse
from mlx_tabtext.read import parse_csv, read_bytes
from mlx_tabtext.records import parse_json, parse_json_lines, table_of_columns
from mlx_tabtext.table import Table, TableError
from mlx_tabtext.workbook import parse_workbook

TABLE_ENDINGS = (
    *(".csv", ".csv.gz", ".csv.zip", ".zip", ".tsv", ".tsv.gz", ".parquet"),
    *(".jsonl", ".jsonl.gz", ".ndjson", ".json", ".xlsx"),
)
"""Endings of the files that `read_table` reads; any other is read as delimited text."""


def read_table(path: str | Path, *, separator: str | None = None) -> Table:
    """Read a table from a file, by its ending.

    `.csv`, `.tsv` and unknown endings: see `read_csv`, also for `separator`, which other files
    ignore. `.jsonl`, `.ndjson`, `.json`: one object a line (`.json` also an array of objects); a
    key that a row lacks is a missing cell. `.parquet`: needs pyarrow (the extra `parquet`).
    `.xlsx`: needs openpyxl (the extra `xlsx`), reads the first sheet. `.gz` of any of these, and
    `.zip` with one of them in it.

    Cells of typed files keep their type, but columns of whole numbers are integers however they
    were stored, and lists and objects become JSON text, with a logged warning. Raises
    `TableError` with file, row and column, also for content that contradicts the ending.
    """
    path = Path(path)
    label, name, raw = _unpack(str(path), path.name.lower(), read_bytes(path))
    ending = PurePosixPath(name).suffix
    reader = _READERS.get(ending)
    if reader is not None:
        return reader(label, raw)
    if ending == ".tsv" and separator is None and b"\t" in raw.partition(b"\n")[0]:
        separator = "\t"
    return parse_csv(label, raw, separator=separator)


def _unpack(label: str, name: str, raw: bytes) -> tuple[str, str, bytes]:
    """Return the label for messages, the name and the content of the file in a .gz or .zip."""
    if name.endswith(".gz"):
        return label, name.removesuffix(".gz"), _gunzip(label, raw)
    if name.endswith(".zip"):
        member, content = _unzip(label, raw)
        return f"{label} ({member})", member.lower(), content
    return label, name, raw


def _gunzip(label: str, raw: bytes) -> bytes:
    if not raw.startswith(b"\x1f\x8b"):
        refuse(label, raw, "a gzip file")
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise TableError(f"{label}: damaged gzip file ({error}); download it again") from None


def _unzip(label: str, raw: bytes) -> tuple[str, bytes]:
    if not raw.startswith(b"PK"):
        refuse(label, raw, "a zip archive")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if "xl/workbook.xml" in archive.namelist():
                refuse(label, raw, "a zip archive with a table in it")
            member = _only_table(label, [each for each in archive.namelist() if each[-1] != "/"])
            return member, archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        reason = "it has a password" if "password" in str(error) else f"damaged: {error}"
        raise TableError(f"{label}: cannot unpack this zip archive ({reason})") from None


def _only_table(label: str, members: list[str]) -> str:
    """Return the one table among the files of an archive; files that systems leave do not count."""
    names = [
        name for name in members if "__MACOSX" not in name and PurePosixPath(name).name[0] != "."
    ]
    tables = [name for name in names if name.lower().endswith((".csv", ".tsv", *_READERS))]
    if len(tables) == 1:
        return tables[0]
    shown = tables or names
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    what = f"{len(tables)} tables" if tables else "no table"
    listed = f": {', '.join(shown[:5])}{more}" if shown else ""
    raise TableError(f"{label}: holds {what}{listed}; unpack it, then give the one table to read")


def _parse_parquet(label: str, raw: bytes) -> Table:
    if not raw.startswith(b"PAR1"):
        refuse(label, raw, "a parquet file")
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
    return table_of_columns(label, columns)


_READERS: dict[str, Callable[[str, bytes], Table]] = {
    ".parquet": _parse_parquet,
    ".jsonl": parse_json_lines,
    ".ndjson": parse_json_lines,
    ".json": parse_json,
    ".xlsx": parse_workbook,
}
