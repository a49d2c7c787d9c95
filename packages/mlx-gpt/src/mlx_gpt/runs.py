"""Start or continue a run folder, as `mlx-gpt train` and the other training commands do."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from mlx_gpt.display import Display
from mlx_gpt.machine import prepare_machine, step_threads
from mlx_gpt.pretrain import build, pretrain
from mlx_gpt.pretrain_config import PretrainConfig
from mlx_trainer import RunFolder, load_config, rank, wait_for_all

T = TypeVar("T")


def run_pretraining(
    config: PretrainConfig, output: Path, resume: bool = False, overwrite: bool = False
) -> None:
    """Make the machine fast, build, make or open the run folder, and train."""
    threads = step_threads(config.training.threads, config.training.device_batch_size)
    machine = prepare_machine(threads)
    with paths_explained(output, resume):
        job = build(config)
    with opened(output, job.config, resume, overwrite) as run, Display(run) as display:
        display.say(f"mlx-fastcpu: {machine}")
        display.say(job.plan.table())
        for note in job.notes:
            display.say(note)
        pretrain(job, output, display, resume)
        display.say(f"model: {output / 'model'}")
        display.say(f'next: mlx-gpt sample --model {output} --prompt "Once upon a time"')


def resolve(
    kind: type[T],
    flags: Mapping[str, object],
    file: str | None,
    overrides: Sequence[str],
    output: Path | None,
    resume: bool = False,
) -> T:
    """Return the configuration: the run's own, or that of file, flags and overrides in this order.

    `flags` are by dotted key.
    """
    if resume:
        assert output is not None
        return load_config(kind, file=RunFolder.open(output).path / "config.yaml")
    given = [f"{key}={_text(value)}" for key, value in flags.items()]
    return load_config(kind, file=file, overrides=[*given, *overrides])


@contextmanager
def opened(
    output: Path, config: object, resume: bool, overwrite: bool
) -> Iterator[RunFolder | None]:
    """Give the run, made or opened, on rank 0, and None on others, which wait for it.

    Raises `FileExistsError` for a folder with something else in it, or a run that is not to be
    touched, and `BlockingIOError` where another process trains in it.
    """
    with ExitStack() as locks:
        run = None
        if rank() == 0:
            if not resume:
                output.mkdir(parents=True, exist_ok=True)
            if output.is_dir():
                locks.enter_context(locked(output))
            if resume:
                run = RunFolder.open(output)
            else:
                _check_free(output, overwrite)
                run = RunFolder.create(output, config, overwrite)
                locks.close()
                locks.enter_context(locked(output))  # one that was replaced is another folder
        wait_for_all()
        yield run


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to oneself, where its file system has locks; a dead process holds none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{folder}: another process is training in it") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


@contextmanager
def paths_explained(output: Path, resume: bool) -> Iterator[None]:
    """Say of a file that a resumed run misses where its path begins."""
    try:
        yield
    except FileNotFoundError as error:
        if not resume:
            raise
        raise FileNotFoundError(
            f"{error}; paths in {output / 'config.yaml'} begin where the run was started: resume "
            "it from there, or change them"
        ) from None


def _check_free(output: Path, overwrite: bool) -> None:
    if overwrite or not output.exists() or not any(output.iterdir()):
        return
    if (output / "config.yaml").is_file():
        raise FileExistsError(
            f"{output} holds a run; --resume continues it, --overwrite replaces it"
        )
    raise FileExistsError(f"{output} is not empty, and no run; choose another --output")


def _text(value: object) -> str:
    # A path or a word is taken as it is where the field is text; all else is read as YAML.
    return value if isinstance(value, str) else json.dumps(value)
