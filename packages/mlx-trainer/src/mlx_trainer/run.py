"""The run folder: what was asked for, where it ran, what was measured.

run.json        the marker: which tool made the run, and the fingerprints of its inputs
config.yaml     the resolved configuration
env.json        Python, platform, package versions, device, commit
metrics.jsonl   one JSON object a line, appended while training
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from mlx_trainer import run_files
from mlx_trainer._atomic import write_atomic
from mlx_trainer.checkpoints import CHECKPOINT_FILES
from mlx_trainer.checksums import ChangedFileError, changed_file, fingerprint
from mlx_trainer.config import dump_config
from mlx_trainer.folders import FolderLock, delete_owned, sweep

MARKER, CONFIG, METRICS = "run.json", "config.yaml", "metrics.jsonl"
_FORMAT = 1
_OWN = (MARKER, CONFIG, "env.json", METRICS)
# What file managers and notebooks leave in any folder: it neither fills a folder nor is it ours.
_IGNORED = (".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class RunKind:
    """Which tool makes a run, and all that it writes there, as glob patterns below the folder.

    Only files that match are ever deleted, when a run is replaced.
    """

    tool: str
    files: tuple[str, ...] = ()


PLAIN = RunKind("mlx-trainer", tuple(f"checkpoints/{name}" for name in CHECKPOINT_FILES))


class RunFolder:
    """The folder of one run: `create` or `resume` it to write, `open` it to read.

    A run that is written is locked against other processes until it is closed, by `close`, the end
    of a `with` block or the end of the process.
    """

    def __init__(self, path: str | Path, kind: RunKind = PLAIN):
        self.path = Path(path)
        self.kind = kind
        self.kept: list[Path] = []
        """Files of others in the folder of a run that was replaced: they are still there."""
        self._lock: FolderLock | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: object,
        overwrite: bool = False,
        *,
        kind: RunKind = PLAIN,
        inputs: Mapping[str, str | Path] | None = None,
    ) -> "RunFolder":
        """Make a new run with its resolved `config`, a dataclass or a mapping of plain values.

        `inputs` are the files and folders that the run reads, by the dotted key of `config` that
        names them; `resume` compares them. `overwrite` replaces a run of the same tool: the files
        of `kind` are deleted, all others stay. Raises `FileExistsError` for a folder that holds
        something else, a run that is not to be replaced, or one of the inputs, and
        `BlockingIOError` where another process writes. A start that was killed is no obstacle.
        """
        run = cls(path, kind)
        inputs = inputs or {}
        run.path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (run.path / max(run._patterns(), key=len)).lstat()  # a name too long is one now
        run._lock = FolderLock(run.path)
        try:
            run._make_room(overwrite, inputs)
            prints = {
                key: {"path": str(each), "sha256": fingerprint(each)}
                for key, each in inputs.items()
            }
            run._write_marker(config, prints, kind.tool)
            run._write(CONFIG, dump_config(config))  # from here on it can be resumed
            run._write("env.json", json.dumps(run_files.describe_environment(), indent=2) + "\n")
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def resume(
        cls,
        path: str | Path,
        *,
        kind: RunKind = PLAIN,
        inputs: Mapping[str, str | Path] | None = None,
    ) -> "RunFolder":
        """Open a run to go on with it; half a line that a kill left in the metrics is dropped.

        Raises `ChangedFileError` where an input or the configuration is not what it was, naming
        it, and `BlockingIOError` where another process writes.
        """
        run = cls.open(path, kind)
        run._lock = FolderLock(run.path)
        try:
            sweep(run.path, run._patterns())
            run._check_inputs(inputs or {})
            run_files.keep(run.path / METRICS, lambda entry: True)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path, kind: RunKind | None = None) -> "RunFolder":
        """Open an existing run to read it; nothing is changed and nothing locked.

        Raises `FileNotFoundError` where there is no run, or, with `kind`, one of another tool, and
        `ChangedFileError` for a configuration that was changed, but for paths of inputs.
        """
        run = cls(path, kind or PLAIN)
        marker = run._marker()
        if marker is None or not (run.path / CONFIG).is_file():
            lacking = MARKER if marker is None else CONFIG
            raise FileNotFoundError(f"{run.path} is not a run: it has no {lacking}")
        if kind and marker["tool"] != kind.tool:
            raise FileNotFoundError(f"{run.path} is a run of {marker['tool']}, not {kind.tool}")
        run._check_config(marker["inputs"])
        return run

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write."""
        if self._lock:
            self._lock.close()

    def log(self, entry: Mapping[str, object]) -> None:
        """Append a line to `metrics.jsonl` and the time in Unix seconds; NaN becomes null."""
        run_files.append(self.path / METRICS, {**entry, "time": time.time()})

    def metrics(self) -> list[dict]:
        """Return the logged lines; one that is still being written, or was cut off, is left out.

        Raises `ValueError` with the number of a line that is damaged.
        """
        return run_files.read(self.path / METRICS)

    def truncate_after(self, updates: int, **where: object) -> None:
        """Drop the lines whose "updates" is above `updates`: the resumed run will log them again.

        `where` limits that to lines with these values: `truncate_after(20, member="fold-1")`.
        """

        def wanted(entry: dict) -> bool:
            other = any(entry.get(key) != value for key, value in where.items())
            return other or entry.get("updates", 0) <= updates

        run_files.keep(self.path / METRICS, wanted)

    def replace_config(self, config: object) -> None:
        """Replace the configuration, of a run that goes on with other settings on purpose."""
        marker = self._marker()
        if marker is None:
            raise FileNotFoundError(f"{self.path} is not a run: it has no {MARKER}")
        self._write_marker(config, marker["inputs"], marker["tool"])
        self._write(CONFIG, dump_config(config))

    def _make_room(self, overwrite: bool, inputs: Mapping[str, str | Path]) -> None:
        """Delete the run that is to be replaced, or what a killed start left; refuse all else."""
        marker = self._marker()
        sweep(self.path, self._patterns())
        if marker is None:
            if any(each.name not in _IGNORED for each in self.path.iterdir()):
                raise FileExistsError(
                    f"{self.path} is not empty and holds no run (no {MARKER}): nothing was "
                    "touched; choose another folder"
                )
        elif marker["tool"] != self.kind.tool:
            raise FileExistsError(
                f"{self.path} holds a run of {marker['tool']}: nothing was touched; choose "
                "another folder"
            )
        elif (self.path / CONFIG).exists() and not overwrite:
            raise FileExistsError(
                f"{self.path} holds a run: resume or overwrite it (--resume, --overwrite), or "
                "choose another folder"
            )
        for path in map(Path, inputs.values()):
            if path.resolve().is_relative_to(self.path.resolve()):
                raise FileExistsError(
                    f"{path} is an input and lies in {self.path}, which would be replaced: "
                    "nothing was touched; move it, or choose another folder"
                )
        # The marker goes last: a kill in between leaves a run that can be replaced.
        delete_owned(self.path, self._patterns(), last=MARKER)
        self.kept = [each for each in self.path.rglob("*") if not each.is_dir()]

    def _patterns(self) -> tuple[str, ...]:
        return (*_OWN, *self.kind.files)

    def _check_config(self, inputs: Mapping[str, object]) -> None:
        """Raise `ChangedFileError` where a setting, but for the paths of inputs, was changed."""
        path, before = self.path / CONFIG, (self._marker() or {})["config"]
        try:
            now = _without(yaml.safe_load(path.read_text("utf-8")), inputs)
        except (ValueError, AttributeError, yaml.YAMLError) as error:
            raise ChangedFileError(f"{path} is damaged: {error}") from None
        for key in sorted(before.keys() | now.keys()):
            if key not in inputs and before.get(key, ...) != now.get(key, ...):
                raise ChangedFileError(
                    f"{path} was changed since the run began: {key} was {before.get(key)!r}, and "
                    f"is {now.get(key)!r}; undo that, or start another run"
                )

    def _check_inputs(self, inputs: Mapping[str, str | Path]) -> None:
        known = (self._marker() or {})["inputs"]
        for key in sorted(known.keys() | inputs.keys()):
            if key not in inputs:
                changed = known[key]["path"]
            elif key not in known:
                changed = inputs[key]
            else:
                changed = changed_file(inputs[key], known[key]["sha256"])
            if changed:
                raise ChangedFileError(
                    f"{changed} ({key}) is not what it was when the run in {self.path} began; "
                    "bring the old one back, or start another run"
                )

    def _marker(self) -> dict | None:
        path = self.path / MARKER
        try:
            values = json.loads(path.read_text("utf-8"))
            if values["format"] == _FORMAT and isinstance(values["tool"], str):
                return values
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(
            f"{path} is damaged or of a newer version (this one knows format {_FORMAT}): nothing "
            "was touched"
        )

    def _write_marker(self, config: object, inputs: Mapping[str, object], tool: str) -> None:
        plain = _without(yaml.safe_load(dump_config(config)), inputs)
        values = {"tool": tool, "format": _FORMAT, "inputs": inputs, "config": plain}
        self._write(MARKER, json.dumps(values, indent=1) + "\n")

    def _write(self, name: str, text: str) -> None:
        write_atomic(self.path / name, lambda path: path.write_text(text, encoding="utf-8"))


def _without(config: Mapping | None, keys: Mapping[str, object], prefix: str = "") -> dict:
    """Return the settings by dotted key, as JSON gives them back, but for those that `keys` has."""
    flat: dict[str, object] = {}
    for name, value in (config or {}).items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= _without(value, keys, f"{key}.")
        elif key not in keys:
            flat[key] = json.loads(json.dumps(value, default=str))
    return flat
