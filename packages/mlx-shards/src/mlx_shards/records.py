"""The small files beside the shards of a cache folder: what is known of each, as JSON."""

import json
import os
from pathlib import Path
from urllib.parse import quote, unquote

from mlx_shards._atomic import write_atomic
from mlx_shards.shard import Shard


def is_of(record: dict, shard: Shard) -> bool:
    """Return whether a record is that of a shard: by its hash where known, else its address.

    A file that is nobody's has an empty record, and is known by its name alone.
    """
    if shard.sha256 and "sha256" in record:
        return record["sha256"] == shard.sha256
    return record.get("location", shard.address) == shard.address


def owned_shards(folder: Path) -> list[Shard]:
    """Return what was downloaded into a folder, as local shards with size and hash."""
    found = []
    for path in sorted((folder / ".mlx-shards" / "owned").glob("[!.]*")):
        record = read_json(path) or {}
        name = unquote(path.name)
        local = str((folder / name).resolve())
        found.append(Shard(name, local, record.get("size"), record.get("sha256")))
    return found


def can_write(folder: Path) -> bool:
    """Return whether files can be made in a folder."""
    effective = os.access in os.supports_effective_ids
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)


def key_of(name: str) -> str:
    """Return the name of a shard as that of one file."""
    return quote(name, safe="")


def read_json(path: Path) -> dict | None:
    """Return the record in a file; None where there is none."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: the machine went down while writing
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: dict) -> None:
    """Write a record in one step."""
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(value)))
