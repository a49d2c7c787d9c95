"""Delete run folders, and only what runs wrote."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from mlx_kaggle import RunError
from mlx_kaggle.members.saved import load_json
from mlx_kaggle.prediction import ensemble as ensembles
from mlx_kaggle.runs import folder as trained
from mlx_trainer import MANIFEST, RunFolder, RunKind


def check_removable(paths: Sequence[Path]) -> list[Path]:
    """Return the folders to delete, each once and ensembles first; nothing is deleted.

    Raises `FileNotFoundError` for a folder that is no run, `FileExistsError` for a run with files
    that it did not write, `BlockingIOError` for one that is being trained, and `RunError` for a run
    that an ensemble beside it needs, unless that is deleted too.
    """
    folders = list({path.resolve(): path for path in paths}.values())
    for path in folders:
        RunFolder.delete(path, _kind(path), only_check=True)
        _check_members(path)
    kept_ensembles = {
        marker.parent.resolve()
        for path in folders
        for marker in (*path.resolve().parent.glob("*/run.json"),
                       *path.resolve().parent.parent.glob("*/run.json"))
        if _kind(marker.parent) is ensembles.KIND
    } - {path.resolve() for path in folders}  # fmt: skip
    for ensemble in sorted(kept_ensembles):
        needed = _runs_of(ensemble)
        for path in folders:
            if path.resolve() in needed:
                raise RunError(
                    f"{path} is needed by the ensemble {ensemble}: nothing was deleted; delete "
                    f"both: mlx-kaggle runs rm {ensemble} {path}"
                )
    return sorted(folders, key=lambda path: _kind(path) is not ensembles.KIND)


def remove_runs(folders: Sequence[Path]) -> None:
    """Delete what `check_removable` returned; each folder is locked and checked again."""
    for path in folders:
        RunFolder.delete(path, _kind(path))


def _kind(path: Path) -> RunKind:
    """Return the kind of a run by its marker; that of a trained run if there is no such marker."""
    try:
        tool = load_json(path / "run.json")["tool"]
    except (OSError, ValueError, KeyError, TypeError):
        tool = None
    return ensembles.KIND if tool == ensembles.KIND.tool else trained.KIND


def _check_members(path: Path) -> None:
    """Refuse files that look like those of a member, but are not in its manifest."""
    for manifest in sorted(path.glob(f"members/*/{MANIFEST}")):
        member = manifest.parent
        ours = {MANIFEST, *load_json(manifest)["sha256"]}
        for file in sorted(each for each in member.rglob("*") if each.is_file()):
            name = file.relative_to(member).as_posix()
            if name not in ours and not name.startswith((".", "checkpoints/")):
                raise FileExistsError(
                    f"{file} is not in {manifest}, so that no run wrote it: nothing was deleted; "
                    f"move it elsewhere first"
                )


def _runs_of(ensemble: Path) -> set[Path]:
    try:
        runs = yaml.safe_load((ensemble / "config.yaml").read_text("utf-8"))["runs"]
        return {Path(each).resolve() for each in runs}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(
            f"{ensemble} is a damaged ensemble, and the runs that it needs are unknown "
            f"({error}): nothing was deleted; delete it too, or restore its config.yaml"
        ) from None
