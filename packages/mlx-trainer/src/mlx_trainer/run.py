"""The run folder: configuration, environment and metrics of a run.

run.json        the marker: the tool that made the run, and the fingerprints of its inputs
config.yaml     the resolved configuration
env.json        Python, platform, package versions, device, commit
metrics.jsonl   one JSON object per line, appended while training
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_trainer import run_files, run_marker
from mlx_trainer._atomic import write_atomic
from mlx_trainer.checkpoints import CHECKPOINT_FILES
from mlx_trainer.checksums import fingerprint
from mlx_trainer.config import dump_config
from mlx_trainer.folders import FolderLock, delete_owned, delete_run_files, sweep
from mlx_trainer.run_marker import MARKER

CONFIG, METRICS = "config.yaml", "metrics.jsonl"
_OWN = (MARKER, CONFIG, "env.json", METRICS)
# File managers and notebooks create these: a folder with nothing else counts as empty.
_IGNORED = (".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class RunKind:
    """The tool that writes a run, and glob patterns of all files that it writes into the folder.

    Replacing a run deletes only the files that match.
    """

    tool: str
    files: tuple[str, ...] = ()


PLAIN = RunKind("mlx-trainer", tuple(f"checkpoints/{name}" for name in CHECKPOINT_FILES))


class RunFolder:
    """The folder of one run: `create` or `resume` it to write, `open` it to read.

    Writing locks the folder against other processes, until `close`, the end of a `with` block or
    the end of the process.
    """

    def __init__(self, path: str | Path, kind: RunKind = PLAIN):
        self.path = Path(path)
        self.kind = kind
        self.kept: list[Path] = []
        """Files in the folder of a replaced run that were kept, because no run wrote them."""
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
        """Create a new run with its resolved `config`, a dataclass or a mapping of plain values.

        `inputs` are the files and folders that the run reads, by their dotted keys in `config`;
        `resume` compares them. `overwrite` replaces a run of the same tool: it deletes the files of
        `kind` and keeps all others. Raises `FileExistsError` for a folder with other files, with a
        run without `overwrite`, or with one of the inputs, and `BlockingIOError` while another
        process writes. Files of a start that was killed are deleted.
        """
        run = cls(path, kind)
        inputs = inputs or {}
        run.path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (run.path / max(run._patterns(), key=len)).lstat()  # fails now if a path is too long
        run._lock = FolderLock(run.path)
        try:
            run._clear(overwrite, inputs)
            prints = {
                key: {"path": str(each), "sha256": fingerprint(each)}
                for key, each in inputs.items()
            }
            run_marker.write(run.path, config, prints, kind.tool)
            run._write(CONFIG, dump_config(config))  # from now on the run can be resumed
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
        """Open a run to continue it; an incomplete last line of metrics is dropped.

        Raises `ChangedFileError`, which names the file or setting, for a changed input or
        configuration, and `BlockingIOError` while another process writes.
        """
        run = cls.open(path, kind)
        run._lock = FolderLock(run.path)
        try:
            sweep(run.path, run._patterns())
            run_marker.check_inputs(run.path, inputs or {})
            run_files.keep_lines(run.path / METRICS, lambda entry: True)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path, kind: RunKind | None = None) -> "RunFolder":
        """Open an existing run to read it, without changing or locking it.

        Raises `FileNotFoundError` if the folder is not a run, or, with `kind`, a run of another
        tool, and `ChangedFileError` if a setting changed; paths of inputs may change.
        """
        run = cls(path, kind or PLAIN)
        marker = run_marker.read(run.path)
        if marker is None or not (run.path / CONFIG).is_file():
            absent = MARKER if marker is None else CONFIG
            raise FileNotFoundError(f"{run.path} is not a run: it has no {absent}")
        if kind and marker["tool"] != kind.tool:
            raise FileNotFoundError(f"{run.path} is a run of {marker['tool']}, not {kind.tool}")
        run_marker.check_config(run.path / CONFIG, marker)
        return run

    @classmethod
    def delete(cls, path: str | Path, kind: RunKind = PLAIN, only_check: bool = False) -> None:
        """Delete a run of `kind`, finished or not, and its folder; or only check that it could.

        Nothing is deleted but what `kind` writes. Raises, before anything is deleted,
        `FileNotFoundError` for another folder or a link, `FileExistsError` for a run with other
        files or links, and `BlockingIOError` while another process writes.
        """
        run = cls(Path(path).absolute(), kind)
        marker = None if run.path.is_symlink() else run_marker.read(run.path)
        if marker is None or marker["tool"] != kind.tool:
            what = f"a run of {marker['tool']}" if marker else f"no folder with a {MARKER}"
            what = f"a link to {run.path.resolve()}" if run.path.is_symlink() else what
            raise FileNotFoundError(f"{path} is {what}: nothing was deleted")
        with FolderLock(run.path):
            delete_run_files(run.path, run._patterns(), MARKER, only_check)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock:
            self._lock.close()

    def log(self, entry: Mapping[str, object]) -> None:
        """Append a line to `metrics.jsonl`, with the time in Unix seconds; NaN becomes null."""
        run_files.append(self.path / METRICS, {**entry, "time": time.time()})

    def metrics(self) -> list[dict]:
        """Return the logged lines, without a last line that is still being written.

        Raises `ValueError` with the number of a damaged line.
        """
        return run_files.read(self.path / METRICS)

    def truncate_after(self, updates: int, **where: object) -> None:
        """Drop the lines whose "updates" is above `updates`: the resumed run logs them again.

        `where` drops only lines with these values: `truncate_after(20, member="fold-1")`.
        """

        def wanted(entry: dict) -> bool:
            other = any(entry.get(key) != value for key, value in where.items())
            return other or entry.get("updates", 0) <= updates

        run_files.keep_lines(self.path / METRICS, wanted)

    def replace_config(self, config: object) -> None:
        """Replace the configuration of a run that intentionally continues with other settings."""
        marker = run_marker.read(self.path)
        if marker is None:
            raise FileNotFoundError(f"{self.path} is not a run: it has no {MARKER}")
        run_marker.write(self.path, config, marker["inputs"], marker["tool"])
        self._write(CONFIG, dump_config(config))

    def _clear(self, overwrite: bool, inputs: Mapping[str, str | Path]) -> None:
        """Delete a run to replace, or files of a killed start; refuse any other content."""
        marker = run_marker.read(self.path)
        sweep(self.path, self._patterns())
        if marker is None:
            if any(each.name not in _IGNORED for each in self.path.iterdir()):
                raise FileExistsError(
                    f"{self.path} is not empty and not a run (no {MARKER}): nothing was "
                    "changed; choose another folder"
                )
        elif marker["tool"] != self.kind.tool:
            raise FileExistsError(
                f"{self.path} is a run of {marker['tool']}: nothing was changed; choose "
                "another folder"
            )
        elif (self.path / CONFIG).exists() and not overwrite:
            raise FileExistsError(
                f"{self.path} is a run: resume or overwrite it (--resume, --overwrite), or "
                "choose another folder"
            )
        for path in map(Path, inputs.values()):
            if path.resolve().is_relative_to(self.path.resolve()):
                raise FileExistsError(
                    f"{path} is an input inside {self.path}, which would be replaced: "
                    "nothing was changed; move it, or choose another folder"
                )
        # The marker is deleted last: a kill in between leaves a run that can be replaced.
        delete_owned(self.path, self._patterns(), last=MARKER)
        self.kept = [each for each in self.path.rglob("*") if not each.is_dir()]

    def _patterns(self) -> tuple[str, ...]:
        return (*_OWN, *self.kind.files)

    def _write(self, name: str, text: str) -> None:
        write_atomic(self.path / name, lambda path: path.write_text(text, encoding="utf-8"))
