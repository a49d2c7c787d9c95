"""The preset of a run that names none: `standard` if there is prose and a pretrained encoder.

The encoder of the last finished run is remembered in a file of the user.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlx_kaggle.settings.config import preset_of
from mlx_kaggle.tables.columns import prose_columns
from mlx_tabtext import infer_schema, read_table

_log = logging.getLogger(__name__)


def choose_preset(
    preset: str | None,
    file: str | None,
    flags: Mapping[str, object],
    overrides: Sequence[str],
) -> tuple[str | None, dict[str, object]]:
    """Return the preset and the flags; with a note if the preset is not the one of every table."""
    unchanged = preset, dict(flags)
    named = any(each.startswith("encoder.path=") for each in overrides)
    if preset or preset_of(file) or named or flags.get("encoder.path") == "scratch":
        return unchanged
    encoder = str(flags.get("encoder.path", "")) or last_encoder()
    if not encoder:
        return unchanged
    table = read_table(str(flags["data.train"]), separator=flags.get("data.separator"))  # type: ignore[arg-type]
    targets = [name for name in str(flags.get("data.target", "")).split(",") if name in table]
    prose = prose_columns(infer_schema(table, target=targets), table)
    if not prose:
        return unchanged
    why = "given" if flags.get("encoder.path") else f"used before: {encoder}"
    _log.warning(
        "preset standard, because the column %r is prose and an encoder was %s; --preset quick "
        "trains a small one from scratch",
        prose[0],
        why,
    )
    return "standard", {**flags, "encoder.path": encoder}


def remember_encoder(path: str) -> None:
    """Remember the pretrained encoder of a finished run."""
    folder = Path(path)
    value = str(folder.resolve()) if folder.is_dir() else path
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value + "\n", "utf-8")


def last_encoder() -> str:
    """Return the folder or hub id of the last finished run; "" if there is none any more."""
    try:
        value = _file().read_text("utf-8").strip()
    except OSError:
        return ""
    return "" if Path(value).is_absolute() and not Path(value).is_dir() else value


def _file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "mlx-kaggle" / "encoder"
