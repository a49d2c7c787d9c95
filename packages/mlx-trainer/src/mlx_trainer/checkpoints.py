"""Checkpoints that survive a kill: versioned, synced folders and an atomically replaced pointer.

folder/latest                       name of the last good checkpoint, replaced in one step
folder/step-00000123/model.safetensors      all parameters, or only the trainable ones
                     optimizer.safetensors  the optimizer's state
                     state.json             position, random keys, checksums of the other two
folder/best.safetensors             parameters of the best evaluation
"""

import json
import re
import shutil
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path, tree_unflatten

from mlx_trainer import distributed
from mlx_trainer._atomic import write_atomic
from mlx_trainer.folders import delete_owned, sweep, sync
from mlx_trainer.random_keys import random_key, set_random_key
from mlx_trainer.step import TrainingError, TrainStep

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_FORMAT = 1
_POINTER = "latest"
_STEP = re.compile(r"\.?step-\d{8,}(-again)?")
# Glob patterns of all files that are written below the folder.
CHECKPOINT_FILES = (
    _POINTER,
    "best.safetensors",
    *(f"{hidden}step-[0-9]*/{name}"
      for hidden in ("", ".")
      for name in ("model.safetensors", "optimizer.safetensors", "state.json")),
)  # fmt: skip
_STATE = {"updates": int, "checksums": dict, "random_keys": list, "position": dict}


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another model."""


class Checkpoints:
    """The checkpoints of one run in `folder`, of which the newest `keep` stay on disk.

    A checkpoint is due every `every` updates and every `seconds` seconds; 0 disables either. Under
    `mlx.launch` every process calls the same methods, rank zero writes, and all ranks need access
    to the folder to load from it. With `only_trainable` frozen parameters are neither saved nor
    loaded: a resumed run must start with the same ones.
    """

    def __init__(
        self,
        folder: str | Path,
        keep: int = 1,
        every: int = 0,
        seconds: float = 0.0,
        only_trainable: bool = False,
    ):
        if keep < 1:
            raise ValueError(f"Checkpoints: keep must be at least 1, got {keep}")
        if every < 0 or seconds < 0:
            got = f"got {every} and {seconds}"
            raise ValueError(f"Checkpoints: every and seconds must not be negative, {got}")
        self.folder = Path(folder)
        self.keep = keep
        self.every = every
        self.seconds = seconds
        self.only_trainable = only_trainable
        self._saved_at = time.monotonic()

    def latest(self) -> Path | None:
        """Return the folder of the last good checkpoint, None before the first."""
        return self._target() if (self.folder / _POINTER).exists() else None

    def due(self, updates: int) -> bool:
        """Return whether to write a checkpoint after this many updates."""
        if self.every and updates % self.every == 0:
            return True
        if not self.seconds:
            return False
        return distributed.rank_zero_flag(time.monotonic() - self._saved_at >= self.seconds)

    def save(self, step: TrainStep, position: Mapping[str, Json]) -> Path:
        """Write model, optimizer, random state and `position`; return the checkpoint's folder.

        `position` is the loop's state to resume from, as JSON; `load` returns it. Raises
        `TrainingError` if a weight is not finite; the last good checkpoint is kept.
        """
        _check_finite(step)
        keys = distributed.gather_keys(random_key())
        if distributed.rank() == 0:
            self._write(step, {"random_keys": keys, "position": dict(position)})
        distributed.wait_for_all()
        self._saved_at = time.monotonic()
        return self._target()

    def position(self) -> dict[str, Json] | None:
        """Return the `position` of the last checkpoint without loading it, None before the first.

        Raises `CheckpointError` if it cannot be read.
        """
        source = self.latest()
        return _read_state(source)["position"] if source else None

    def verified(self) -> Path | None:
        """Return the folder of the last checkpoint after checking its checksums, or None.

        Raises `CheckpointError` for a damaged one.
        """
        if (source := self.latest()) is None:
            return None
        for name, checksum in _read_state(source)["checksums"].items():
            if not (source / name).is_file() or _checksum(source / name) != checksum:
                raise CheckpointError(
                    f"{source / name} is damaged: its checksum is not the one in state.json"
                    f"{_remedy(source)}"
                )
        return source

    def load(self, step: TrainStep) -> dict[str, Json] | None:
        """Load the last checkpoint into `step`; return its `position`, None before the first.

        Restores parameters, optimizer state, random state and `step.updates`. Raises
        `CheckpointError` for damaged files, and for missing, unexpected or mis-shaped parameters.
        """
        if (source := self.verified()) is None:
            return None
        state = _read_state(source)
        keys = state["random_keys"]
        if len(keys) != distributed.world_size():
            raise CheckpointError(
                f"{source} was written by {len(keys)} processes, but "
                f"{distributed.world_size()} are running; start the same number"
            )
        load_parameters(step.model, source / "model.safetensors", self.only_trainable)
        step.prepare()
        _load_optimizer(step, source / "optimizer.safetensors")
        set_random_key(keys[distributed.rank()])
        step.updates = state["updates"]
        return state["position"]

    def save_best(self, model: nn.Module) -> None:
        """Write the parameters of `model` as the best so far."""
        if distributed.rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            _save_arrays(self.folder / "best.safetensors", self._parameters(model))
        distributed.wait_for_all()

    def load_best(self, model: nn.Module) -> None:
        """Load the parameters written by `save_best` into `model`."""
        load_parameters(model, self.folder / "best.safetensors", self.only_trainable)

    def delete(self) -> None:
        """Delete all checkpoints and what killed processes left, and the folder if then empty."""
        patterns = [f"{self.folder.name}/{each}" for each in CHECKPOINT_FILES]
        sweep(self.folder.parent, patterns)
        delete_owned(self.folder.parent, patterns)

    def _parameters(self, model: nn.Module) -> dict:
        return model.trainable_parameters() if self.only_trainable else model.parameters()

    def _target(self) -> Path:
        pointer = self.folder / _POINTER
        name = pointer.read_bytes().decode("utf-8", "replace").strip()
        if not name or not (self.folder / name / "state.json").is_file():
            raise CheckpointError(
                f"{pointer} names {name[:40]!r}, which is not a checkpoint{_remedy(pointer)}"
            )
        return self.folder / name

    def _write(self, step: TrainStep, state: dict) -> None:
        target = self.folder / f"step-{step.updates:08d}"
        if target == self.latest():
            # The last good checkpoint is never modified, even if the same update is saved again.
            target = target.with_name(target.name + "-again")
        partial = target.with_name(f".{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        trees = {
            "model.safetensors": self._parameters(step.model),
            "optimizer.safetensors": step.optimizer.state,
        }
        try:
            for name, tree in trees.items():
                _save_arrays(partial / name, tree)
            checksums = {name: _checksum(partial / name) for name in trees}
            state = {"format": _FORMAT, "updates": step.updates, "checksums": checksums, **state}
            text = json.dumps(state)
            write_atomic(partial / "state.json", lambda path: path.write_text(text, "utf-8"))
            sync(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # frees a full disk
            raise
        shutil.rmtree(target, ignore_errors=True)  # left by a run killed before the pointer moved
        partial.rename(target)
        sync(self.folder)
        write_atomic(
            self.folder / _POINTER, lambda path: path.write_text(target.name, encoding="utf-8")
        )
        sync(self.folder)  # the pointer is on disk before its old target is deleted
        self._delete_old(target)

    def _delete_old(self, newest: Path) -> None:
        ours = sorted(path for path in self.folder.iterdir() if _STEP.fullmatch(path.name))
        partial = [path for path in ours if path.name.startswith(".")]  # of killed runs
        others = [path for path in ours if path != newest and path not in partial]
        for path in others[: max(0, len(others) - (self.keep - 1))] + partial:
            shutil.rmtree(path)


def _save_arrays(path: Path, tree: object) -> None:
    arrays = dict(tree_flatten(tree))
    write_atomic(path, lambda temporary: mx.save_safetensors(str(temporary), arrays))


def load_parameters(model: nn.Module, path: Path, only_trainable: bool = False) -> None:
    """Load a safetensors file into `model`; names, shapes and dtypes must match.

    With `only_trainable` it must have the trainable parameters, else all of them.
    """
    loaded = _read_arrays(path)
    parameters = model.trainable_parameters() if only_trainable else model.parameters()
    _compare(dict(tree_flatten(parameters)), loaded, path)
    model.update(tree_unflatten(list(loaded.items())))
    mx.eval(model.parameters())


def _load_optimizer(step: TrainStep, path: Path) -> None:
    loaded = _read_arrays(path)
    state = step.optimizer.state
    expected = dict(tree_flatten(state))
    # Checkpoints of older versions have no rates of groups, which were settings then.
    loaded = {name: each for name, each in expected.items() if name.startswith("rates.")} | loaded
    _compare(expected, loaded, path)
    step.optimizer.state = tree_map_with_path(lambda name, _: loaded[name], state)
    step.optimizer.init(step.model.trainable_parameters())
    mx.eval(step.optimizer.state)


def _read_state(source: Path) -> dict:
    try:
        state = json.loads((source / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{source / 'state.json'} cannot be read: {error}{_remedy(source)}"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{source / 'state.json'} is not a JSON object{_remedy(source)}")
    if state.get("format") != _FORMAT:
        raise CheckpointError(
            f"{source} has format {state.get('format')}, this version reads format {_FORMAT}"
        )
    wrong = [name for name, kind in _STATE.items() if not isinstance(state.get(name), kind)]
    if wrong:
        raise CheckpointError(
            f"{source / 'state.json'} is damaged: {wrong[0]} is missing or wrong{_remedy(source)}"
        )
    return state


def _remedy(damaged: Path) -> str:
    """Return the end of a message: how to continue without a damaged checkpoint."""
    whole = {path.parent for path in damaged.parent.glob("step-*/state.json")} - {damaged}
    if not whole:
        return "; it is the only checkpoint, so the run must be restarted"
    older = max(whole).name
    return f"; to resume from an older one, write {older} into {damaged.parent / _POINTER}"


def _check_finite(step: TrainStep) -> None:
    flat = dict(tree_flatten(step.model.parameters()))
    finite = [mx.isfinite(array).all() for array in flat.values()]
    mx.eval(finite)
    bad = [name for name, each in zip(flat, finite, strict=True) if not each]
    if bad:
        raise TrainingError(
            f"update {step.updates} left {len(bad)} of {len(flat)} weights with values that are "
            f"not finite, {bad[0]} first; lower the learning rate"
        )


def _read_arrays(path: Path) -> dict[str, mx.array]:
    try:
        arrays = mx.load(str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return arrays  # type: ignore[return-value]


def _compare(expected: dict[str, mx.array], loaded: dict[str, mx.array], path: Path) -> None:
    """Raise unless both have the same names with the same shapes and dtypes."""
    problems = [f"missing {name}" for name in expected.keys() - loaded.keys()]
    problems += [f"unexpected {name}" for name in loaded.keys() - expected.keys()]
    for name in expected.keys() & loaded.keys():
        ours, theirs = expected[name], loaded[name]
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            problems.append(
                f"{name} is {theirs.dtype} {theirs.shape}, expected {ours.dtype} {ours.shape}"
            )
    if problems:
        shown = "; ".join(sorted(problems)[:10])
        rest = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{path} does not fit this model or optimizer: {shown}{rest}")


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
