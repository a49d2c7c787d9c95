"""The log of a run: one JSON object a line, read while it is written, cut back on resume."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mlx_trainer._atomic import write_atomic


def append(path: Path, entry: Mapping[str, object]) -> None:
    """Append a line; NaN and infinities become null."""
    line = json.dumps(_finite(entry), allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read(path: Path) -> list[dict]:
    """Return the whole lines; raises `ValueError` with the number of one that is damaged."""
    return [entry for _, entry in _entries(path)]


def keep(path: Path, wanted: Callable[[dict], bool]) -> None:
    """Drop the lines that are not wanted, and half a line at the end."""
    text = "".join(line + "\n" for line, entry in _entries(path) if wanted(entry))
    if path.exists() and text != path.read_text("utf-8"):
        write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _entries(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield the whole lines of a log and what they hold."""
    try:
        text = path.read_text("utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from None
    for number, line in enumerate(text[: text.rfind("\n") + 1].split("\n")[:-1], 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{path}:{number}: not a JSON object, but {line.strip():.40}")
        yield line, entry


def _finite(value: object) -> object:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
