"""Start or continue a run folder of pretraining, as `mlx-gpt train` does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlx_gpt.display import Display
from mlx_gpt.machine import prepare_machine, step_threads
from mlx_gpt.pretrain import PretrainConfig, build, plan_of, pretrain
from mlx_gpt.tokenizer import Tokenizer
from mlx_trainer import RunFolder, load_config, rank, wait_for_all


def train_run(
    flags: Mapping[str, Mapping],
    config_file: str | None,
    overrides: Sequence[str],
    output: Path | None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Pretrain into `output`; flags come after the file and before the overrides."""
    if resume:
        assert output is not None
        config = load_config(PretrainConfig, file=RunFolder.open(output).path / "config.yaml")
    else:
        given = [
            f"{section}.{name}={_text(value)}"
            for section, values in flags.items()
            for name, value in values.items()
        ]
        config = load_config(PretrainConfig, file=config_file, overrides=[*given, *overrides])
    if dry_run:
        print(plan_of(config, Tokenizer.load(config.data.tokenizer).vocab_size).table())
        return
    assert output is not None
    run_pretraining(config, output, resume, overwrite)


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


def open_on_rank_zero(
    output: Path, config: object, resume: bool, overwrite: bool
) -> RunFolder | None:
    """Return the run, made or opened, on rank 0; None on others, which wait for it."""
    run = None
    if rank() == 0:
        run = RunFolder.open(output) if resume else RunFolder.create(output, config, overwrite)
    wait_for_all()
    return run


def _text(value: object) -> str:
    return "true" if value is True else str(value)
