"""Read documents from text files: .txt, .jsonl, .jsonl.gz, .parquet."""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")


def read_texts(files: Sequence[str | Path], column: str = "text") -> Iterator[str]:
    """Yield the documents of files, in order, one at a time.

    In `.txt` files a blank line ends a document. In `.jsonl`, `.jsonl.gz` and `.parquet` files
    (which need pyarrow, the extra `parquet`) a document is the value of `column` in each row.
    Raises `ValueError` with file and row for a document that is not a string, and for other files.
    """
    for file in map(Path, files):
        if not file.name.endswith(_SUFFIXES):
            raise ValueError(f"{file}: text files must be {', '.join(_SUFFIXES)}")
        if not file.is_file():
            raise FileNotFoundError(f"no file {str(file)!r}")
    for file in map(Path, files):
        if file.suffix == ".txt":
            yield from _split_at_blank_lines(file)
        elif file.suffix == ".parquet":
            yield from _checked(file, "row", column, _parquet_rows(file, column))
        else:
            yield from _checked(file, "line", column, _json_rows(file, column))


def _split_at_blank_lines(file: Path) -> Iterator[str]:
    lines: list[str] = []
    with file.open(encoding="utf-8") as opened:
        for line in _decoded(file, opened):
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines)
                lines = []
    if lines:
        yield "".join(lines)


def _json_rows(file: Path, column: str) -> Iterator[tuple[int, object]]:
    open_text = gzip.open if file.suffix == ".gz" else open
    with open_text(file, "rt", encoding="utf-8") as opened:
        for number, line in enumerate(_decoded(file, opened), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}:{number}: not JSON ({error})") from error
            if not isinstance(row, dict) or column not in row:
                found = sorted(row) if isinstance(row, dict) else type(row).__name__
                raise ValueError(f"{file}:{number}: no key {column!r}, got {found}")
            yield number, row[column]


def _parquet_rows(file: Path, column: str) -> Iterator[tuple[int, object]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "parquet files need pyarrow; install mlx-encoders with the extra: "
            "pip install 'mlx-encoders[parquet]'"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            if column not in names:
                raise ValueError(f"{file}: no column {column!r}, got {names}")
            number = 0
            for batch in opened.iter_batches(batch_size=256, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield number, value
    except pyarrow.ArrowInvalid as error:
        raise ValueError(
            f"{file} is damaged or not a parquet file ({error}); copy or download it again"
        ) from error


def _checked(
    file: Path, unit: str, column: str, rows: Iterable[tuple[int, object]]
) -> Iterator[str]:
    for number, value in rows:
        if not isinstance(value, str):
            kind = type(value).__name__
            raise ValueError(f"{file}: {column!r} in {unit} {number} must be text, got {kind}")
        yield value


def _decoded(file: Path, opened: Iterable[str]) -> Iterator[str]:
    """Yield lines; an error of encoding or compression names the file."""
    try:
        yield from opened
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(
            f"{file} is not UTF-8 text or is damaged ({error}); copy or convert it again"
        ) from error
