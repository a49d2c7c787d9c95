"""Where a training loop goes on: at its last checkpoint, maybe for more steps than were planned."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlx_gpt.models.files import check_tokenizer
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training import pretrain_config, rl_config, sft_config
from mlx_gpt.training.limits import SettingsError
from mlx_gpt.training.pretrain_config import PretrainConfig
from mlx_trainer import Checkpoints, RunFolder, TrainingError, TrainStep, rank

Position = dict


def begin(
    folder: Path,
    settings: pretrain_config.ReportConfig | sft_config.ReportConfig | rl_config.ReportConfig,
    step: TrainStep,
    tokenizer: Tokenizer,
    keys: Sequence[str],
    resume: bool,
) -> tuple[Checkpoints, Position | None]:
    """Return the checkpoints of a run and, if it goes on, the position of the last one.

    That one is then loaded into `step`. `keys` are what the position must have. Raises `ValueError`
    where it is damaged, or where the run was begun with another tokenizer.
    """
    checkpoints = Checkpoints(
        folder / "checkpoints",
        settings.keep_checkpoints,
        settings.checkpoint_every,
        settings.checkpoint_seconds,
    )
    position: Position | None = checkpoints.position() if resume else None
    if position is None:
        return checkpoints, None
    source = f"{checkpoints.latest()}/state.json"
    if absent := [key for key in keys if key not in position]:
        raise ValueError(f"{source}: not a checkpoint of this kind of run: it lacks {absent[0]}")
    if "tokenizer" in position:  # not yet in those of version 0.1
        check_tokenizer(tokenizer, source, **position["tokenizer"])
    checkpoints.load(step)
    return checkpoints, position


def drop_what_follows(folder: Path, updates: int) -> None:
    """Take out of the log, on rank 0, what a run that goes on after so many updates logs again."""
    if rank() == 0:
        run = RunFolder(folder)
        run.truncate_after(updates or -1)  # at 0 all is logged again
        run.truncate_after(updates - 1, event="end")


@contextmanager
def divergence_explained(folder: Path, setting: str, value: float) -> Iterator[None]:
    """Say of training that diverged what is left of it, and what to try."""
    try:
        yield
    except TrainingError as error:
        latest = Checkpoints(folder / "checkpoints").latest()
        left = f"the last good checkpoint is {latest}" if latest else "no checkpoint was saved yet"
        what = str(error).partition("; ")[0]
        raise TrainingError(
            f"training diverged in {what}; {left}. Begin again with lower rates, as with --set "
            f"{setting}={value / 4:g} (it was {value:g})"
        ) from error


def extended(config: PretrainConfig, steps: int) -> PretrainConfig:
    """Return the configuration with more steps; `SettingsError` unless they are more."""
    planned = config.training.steps
    if planned is not None and steps <= planned:
        raise SettingsError(
            f"--steps {steps:,} with --resume: the run has {planned:,} already; give more of them, "
            "or leave --steps out"
        )
    return replace(config, training=replace(config.training, steps=steps))


def extend(folder: Path, config: PretrainConfig, planned: Sequence[int], done: int) -> dict:
    """Write the configuration with more steps into the run; return the event for its log.

    `planned` are the numbers of steps that it was to have before, `done` the updates so far.
    "decay_differs_from" and "rates_differ_from" are the first of them that one long run would have
    done otherwise, None where there is none: without any the runs are equal, bit for bit.
    """
    if rank() == 0:
        RunFolder(folder).replace_config(config)
    training, steps = config.training, config.training.steps or 0
    decay, rates = None, None
    if training.schedule == "nanochat":
        # The cosine of the decay goes over all steps; rates and momentum depend on their number
        # only once they fall.
        falling = min(each - round(training.warmdown_ratio * each) for each in (*planned, steps))
        decay = 2 if done >= 2 else None
        rates = falling + 2 if done >= falling + 2 else None
    return {"event": "extended", "updates": done, "from_steps": planned[-1], "steps": steps,
            "decay_differs_from": decay, "rates_differ_from": rates}  # fmt: skip


def in_words(event: dict) -> str:
    """Return the line that says of `extend`'s event how the run differs from one long run."""
    text = "after update {updates:,} it goes on for {steps:,} steps instead of {from_steps:,}"
    if event["decay_differs_from"] is None:
        text += ": equal to one run of {steps:,} steps, bit for bit"
    else:
        text += (
            "; rates and decay are from here on those of a run of {steps:,} steps. One such run "
            "would have had another weight decay from update {decay_differs_from} on, and "
        )
        differs = event["rates_differ_from"]
        text += "other rates from update {rates_differ_from:,} on" if differs else "the same rates"
        text += "; what --schedule constant begins can go on and be equal"
    return text.format_map(event)
