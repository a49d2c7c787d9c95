"""The marker of a run folder, `run.json`: the tool that made it, its settings and its inputs.

Inputs are the files and folders that a run reads, by their dotted keys in the settings, with a
fingerprint of their content. Their paths may change; the settings and the contents may not.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mlx_trainer._atomic import write_atomic
from mlx_trainer.checksums import ChangedFileError, changed_file
from mlx_trainer.config import dump_config

MARKER = "run.json"
_FORMAT = 1


def read(folder: Path) -> dict[str, Any] | None:
    """Return the marker, or `None` if there is none; raise `ValueError` for a damaged one."""
    path = folder / MARKER
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["format"] == _FORMAT and isinstance(values["tool"], str):
            return values
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{path} is damaged or of a newer version (this one reads format {_FORMAT}): nothing "
        "was changed"
    )


def write(folder: Path, config: object, inputs: Mapping[str, object], tool: str) -> None:
    """Write the marker of a run of `tool`; `inputs` are those of an earlier marker, or new ones."""
    plain = _flatten_without(yaml.safe_load(dump_config(config)), inputs)
    values = {"tool": tool, "format": _FORMAT, "inputs": inputs, "config": plain}
    text = json.dumps(values, indent=1) + "\n"
    write_atomic(folder / MARKER, lambda path: path.write_text(text, encoding="utf-8"))


def check_config(path: Path, marker: Mapping[str, Any]) -> None:
    """Raise `ChangedFileError` if a setting of the file at `path` is not that of the marker."""
    before, inputs = marker["config"], marker["inputs"]
    try:
        now = _flatten_without(yaml.safe_load(path.read_text("utf-8")), inputs)
    except (ValueError, AttributeError, yaml.YAMLError) as error:
        raise ChangedFileError(f"{path} is damaged: {error}") from None
    for key in sorted(before.keys() | now.keys()):
        if key not in inputs and before.get(key, ...) != now.get(key, ...):
            raise ChangedFileError(
                f"{path} was changed since the run started: {key} was {before.get(key)!r}, and "
                f"is {now.get(key)!r}; undo the change, or start another run"
            )


def check_inputs(folder: Path, inputs: Mapping[str, str | Path]) -> None:
    """Raise `ChangedFileError` if an input has another content than when the run started."""
    known = (read(folder) or {})["inputs"]
    for key in sorted(known.keys() | inputs.keys()):
        if key not in inputs:
            changed = known[key]["path"]
        elif key not in known:
            changed = inputs[key]
        else:
            changed = changed_file(inputs[key], known[key]["sha256"])
        if changed:
            raise ChangedFileError(
                f"{changed} ({key}) was changed since the run in {folder} started; "
                "restore the old file, or start another run"
            )


def _flatten_without(config: Mapping | None, keys: Mapping[str, object], prefix: str = "") -> dict:
    """Return the settings by dotted key, as JSON restores them, without those in `keys`."""
    flat: dict[str, object] = {}
    for name, value in (config or {}).items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= _flatten_without(value, keys, f"{key}.")
        elif key not in keys:
            flat[key] = json.loads(json.dumps(value, default=str))
    return flat
