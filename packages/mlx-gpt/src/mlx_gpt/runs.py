"""Start or continue a run folder, as `mlx-gpt train` and the other training commands do."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from mlx_gpt.display import Display
from mlx_gpt.going_on import divergence_explained, extended
from mlx_gpt.limits import check_ranges
from mlx_gpt.machine import prepare_machine
from mlx_gpt.pretrain import build, pretrain
from mlx_gpt.pretrain_config import PretrainConfig
from mlx_trainer import ConfigError, RunFolder, load_config, rank, wait_for_all

T = TypeVar("T")


def run_pretraining(
    config: PretrainConfig,
    output: Path,
    resume: bool = False,
    overwrite: bool = False,
    steps: int | None = None,
) -> None:
    """Make the machine fast, build, make or open the run folder, and train.

    With `resume`, `steps` are more of them than the run's `config` has.
    """
    machine = prepare_machine()
    planned = [config.training.steps] if steps and config.training.steps else []
    with paths_explained(output, resume):
        job = build(extended(config, steps) if steps else config, resume)
    prepare_machine(job.step.threads)
    with opened(output, job.config, resume, overwrite) as run, Display(run) as display:
        display.say(f"mlx-fastcpu: {machine}")
        display.say(job.plan.table())
        training = job.config.training
        display.say(f"{'an update':18} {job.accumulation} x {training.device_batch_size} rows")
        if planned and run:
            events = [line for line in run.metrics() if line["event"] == "extended"]
            planned = [*(event["from_steps"] for event in events), *planned]
        with divergence_explained(output, "training.rate_scale", training.rate_scale):
            pretrain(job, output, display, resume, planned)
        display.say(f"model: {output / 'model'}")
        display.say(f'next: mlx-gpt sample --model {output} --prompt "Once upon a time"')


def resolve(
    kind: type[T],
    flags: Mapping[str, object],
    file: str | None,
    overrides: Sequence[str],
    output: Path | None,
    resume: bool = False,
    base: Mapping[str, object] | None = None,
) -> T:
    """Return the configuration: the run's own, or base, file, flags and overrides in this order.

    `flags` are by dotted key. Raises `ConfigError` or `SettingsError` for wrong ones.
    """
    if resume:
        assert output is not None
        file = str(RunFolder.open(output).path / "config.yaml")
        try:
            return load_config(kind, file=file)
        except ConfigError as error:  # a damaged file is no wrong usage
            text = str(error)
            raise ValueError(text if text.startswith(file) else f"{file}: {text}") from None
    given = [f"{key}={_text(value)}" for key, value in flags.items()]
    config = load_config(kind, base=base, file=file, overrides=[*given, *overrides])
    check_ranges(config)
    return config


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
