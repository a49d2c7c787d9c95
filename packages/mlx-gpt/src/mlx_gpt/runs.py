"""Start or continue a run folder, as `mlx-gpt train` and the other training commands do."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mlx_gpt.display import Display
from mlx_gpt.machine import prepare_machine, step_threads
from mlx_gpt.pretrain import PretrainConfig, build, pretrain
from mlx_trainer import RunFolder, load_config, rank, wait_for_all

T = TypeVar("T")


def run_pretraining(
    config: PretrainConfig, output: Path, resume: bool = False, overwrite: bool = False
) -> None:
    """Make the machine fast, build, make or open the run folder, and train."""
    threads = step_threads(config.training.threads, config.training.device_batch_size)
    machine = prepare_machine(threads)
    job = build(config)
    run = open_on_rank_zero(output, job.config, resume, overwrite)
    with Display(run) as display:
        display.say(f"mlx-fastcpu: {machine}")
        display.say(job.plan.table())
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


def open_on_rank_zero(
    output: Path, config: object, resume: bool, overwrite: bool
) -> RunFolder | None:
    """Return the run, made or opened, on rank 0; None on others, which wait for it."""
    run = None
    if rank() == 0:
        try:
            run = RunFolder.open(output) if resume else RunFolder.create(output, config, overwrite)
        except FileExistsError:
            raise FileExistsError(
                f"{output} is not empty; --resume continues the run, --overwrite replaces it"
            ) from None
    wait_for_all()
    return run


def _text(value: object) -> str:
    # A path or a word is taken as it is where the field is text; all else is read as YAML.
    return value if isinstance(value, str) else json.dumps(value)
