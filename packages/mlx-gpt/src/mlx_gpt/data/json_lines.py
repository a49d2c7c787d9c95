"""Read and check rows of JSON lines files; every error names file and line."""

import json
from collections.abc import Iterator
from pathlib import Path


def read_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield "file, line n" and the JSON object of each line that is not blank.

    Raises `ValueError` for any other line, and for a file without rows.
    """
    empty = True
    # In bytes, lines end at newlines only; `json` decodes UTF-8 with or without a byte order mark.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                empty = False
                where = f"{path}, line {number}"
                yield where, _parse(line, where)
    if empty:
        raise ValueError(f"{path}: no rows; expected one JSON object per line")


def _parse(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:  # also invalid UTF-8
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


def get_text(row: dict, key: str, where: str) -> str:
    """Return the text under `key`; `ValueError` if it is missing or blank."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {key!r} must be a text, got {value!r}")
    return value


def get_options(row: dict, key: str, where: str) -> list[str]:
    """Return the list under `key`; `ValueError` unless it has at least two texts."""
    value = row.get(key)
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"{where}: {key!r} must be a list of at least two texts, got {value!r}")
    for each in value:
        if not isinstance(each, str):
            raise ValueError(f"{where}: {key!r} must contain texts, got {each!r}")
    return value


def get_gold(row: dict, options: int, where: str) -> int:
    """Return the index of the correct option; `ValueError` unless below `options`."""
    gold = row.get("gold")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < options:
        raise ValueError(f"{where}: 'gold' must be an index from 0 to {options - 1}, got {gold!r}")
    return gold
