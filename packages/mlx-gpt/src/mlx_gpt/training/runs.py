"""Run folders: start, resume and extend the runs of all stages, save models, explain errors."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mlx_gpt.data.formats import Source
from mlx_gpt.machine import prepare_machine
from mlx_gpt.models.files import (
    MODEL_FILES,
    check_tokenizer,
    find_model_folder,
    save_manifest,
    save_model,
)
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer.loading import AnyTokenizer
from mlx_gpt.training.display import TrainingDisplay
from mlx_gpt.training.settings import PretrainConfig
from mlx_trainer import (
    CHECKPOINT_FILES,
    Checkpoints,
    ConfigError,
    RunFolder,
    RunKind,
    TrainingError,
    TrainStep,
    lasting_output,
    load_config,
    rank,
    wait_for_all,
)

KIND = RunKind(
    "mlx-gpt",
    (
        *(f"model/{name}" for name in MODEL_FILES),
        *(f"checkpoints/{name}" for name in CHECKPOINT_FILES),
        *("evaluation.json", "report.json", "report.md", "curves.png"),
    ),
)

Report = Callable[[dict], None]
Position = dict
T = TypeVar("T")


class Job(Protocol):
    """A built run of any stage."""

    config: Any
    step: TrainStep

    @property
    def tokenizer(self) -> AnyTokenizer:
        """That of the model."""
        ...


J = TypeVar("J", bound=Job)


def read_config(
    kind: type[T],
    flags: Mapping[str, object],
    file: str | None,
    overrides: Sequence[str],
    output: Path | None,
    resume: bool = False,
    base: Mapping[str, object] | None = None,
) -> T:
    """Return the saved configuration on resume, else merge base, file, flags and overrides.

    `flags` are by dotted key. Raises `ConfigError` for wrong settings.
    """
    if not resume:
        return load_config(kind, base, file, overrides, flags)
    assert output is not None
    file = str(RunFolder.open(output, KIND).path / "config.yaml")
    try:
        return load_config(kind, file=file)
    except ConfigError as error:  # a damaged file is not wrong usage
        text = str(error)
        raise ValueError(text if text.startswith(file) else f"{file}: {text}") from None


@contextmanager
def start_run(
    build: Callable[[], J],
    output: Path,
    resume: bool,
    overwrite: bool,
    display: type[TrainingDisplay] = TrainingDisplay,
) -> Iterator[tuple[J, TrainingDisplay]]:
    """Prepare the machine, build a job, create or resume its run folder, and open the display."""
    machine = prepare_machine()
    with explain_missing_paths(output, resume):
        job = build()
    prepare_machine(job.step.threads)
    with open_run(output, job.config, resume, overwrite) as run, display(run) as shown:
        shown.say(f"mlx-fastcpu: {machine}")
        yield job, shown


@contextmanager
def open_run(
    output: Path, config: Any, resume: bool, overwrite: bool
) -> Iterator[RunFolder | None]:
    """Create or resume the run and lock it, on rank 0; other ranks wait and get None.

    Raises the errors of `RunFolder.create` and `RunFolder.resume`.
    """
    run = None
    if rank() == 0:
        inputs = inputs_of(config)
        run = (
            RunFolder.resume(output, kind=KIND, inputs=inputs)
            if resume
            else RunFolder.create(output, config, overwrite, kind=KIND, inputs=inputs)
        )
        for path in run.kept[:1]:
            print(f"kept {len(run.kept)} files in {output} that are not a run's: {path}, ...",
                  file=sys.stderr)  # fmt: skip
    wait_for_all()
    with run or nullcontext(), lasting_output():
        yield run


def inputs_of(config: Any) -> dict[str, str | Path]:
    """Return the local files and folders that a run reads, by the keys of its configuration.

    Patterns and URLs are skipped: the stream compares its shards.
    """
    base = getattr(config, "model", None)
    found: dict[str, str | Path] = (
        {"model": find_model_folder(base)} if isinstance(base, str) else {}
    )
    if first := getattr(base, "init_from", None):
        found["model.init_from"] = find_model_folder(first)
    data = getattr(config, "data", None)
    for name in ("train", "valid", "tokenizer"):
        value = getattr(data, name, None)
        if isinstance(value, list):  # conversations, with an optional prefix and repeat
            found |= {f"data.{name}[{n}]": Source.parse(each).path for n, each in enumerate(value)}
        elif value and Path(value).exists():
            found[f"data.{name}"] = value
    return found


def restore(
    job: Job, folder: Path, keys: Sequence[str], resume: bool, only_trainable: bool = False
) -> tuple[Checkpoints, Position | None]:
    """Return the checkpoints of a run and, on resume, the position of the last one.

    That checkpoint is loaded into the job's step. The position must have `keys`. With
    `only_trainable` checkpoints have no frozen parameters. Raises
    `ValueError` for a damaged checkpoint, and for one with another tokenizer.
    """
    settings = job.config.report
    checkpoints = Checkpoints(
        folder / "checkpoints",
        settings.keep_checkpoints,
        settings.checkpoint_every,
        settings.checkpoint_seconds,
        only_trainable,
    )
    position: Position | None = checkpoints.position() if resume else None
    if position is None:
        return checkpoints, None
    source = f"{checkpoints.latest()}/state.json"
    if absent := [key for key in keys if key not in position]:
        raise ValueError(f"{source}: not a checkpoint of this kind of run: it has no {absent[0]}")
    if "tokenizer" in position:  # absent in checkpoints of version 0.1
        check_tokenizer(job.tokenizer, source, **position["tokenizer"])
    checkpoints.load(job.step)
    return checkpoints, position


def truncate_log(folder: Path, updates: int) -> None:
    """Drop, on rank 0, the log lines after this many updates, which a resumed run logs again."""
    if rank() == 0:
        run = RunFolder(folder)
        run.truncate_after(updates or -1)  # at 0 all is logged again
        run.truncate_after(updates - 1, event="end")


def is_due(every: int, updates: int) -> bool:
    """Return whether an interval ends after this many updates; never if `every` is 0."""
    return every > 0 and updates % every == 0


def save_to_run(model: Decoder, tokenizer: AnyTokenizer, folder: Path) -> None:
    """Write model and tokenizer into the run's folder, on rank 0."""
    if rank() == 0:
        save_model(model, folder / "model", tokenizer.sha256)
        tokenizer.save(folder / "model")
        save_manifest(folder / "model")


def with_more_steps(config: PretrainConfig, steps: int) -> PretrainConfig:
    """Return the configuration with more steps; raises `ConfigError` unless they are more."""
    planned = config.training.steps
    if planned is not None and steps <= planned:
        raise ConfigError(
            f"--steps {steps:,} with --resume: the run has {planned:,} already; give more steps, "
            "or omit --steps"
        )
    return replace(config, training=replace(config.training, steps=steps))


def extend_run(folder: Path, config: PretrainConfig, planned: int, done: int) -> dict:
    """Write the configuration with more steps into the run; return the event for its log.

    `planned` is the number of steps that it had before, `done` the updates so far.
    "decay_differs_from" and "rates_differ_from" are the first updates whose decay or rates differ
    from those of one long run. If both are None, the runs are equal bit for bit.
    """
    earlier: list[int] = []
    if rank() == 0:
        run = RunFolder(folder)
        earlier = [each["from_steps"] for each in run.metrics() if each["event"] == "extended"]
        run.replace_config(config)
    training, steps = config.training, config.training.steps or 0
    decay, rates = None, None
    if training.schedule == "nanochat":
        # The decay is a cosine over all steps; rates and momentum depend on the number of steps
        # only once they fall.
        lengths = (*earlier, planned, steps)
        falling = min(each - round(training.warmdown_ratio * each) for each in lengths)
        decay = 2 if done >= 2 else None
        rates = falling + 2 if done >= falling + 2 else None
    return {"event": "extended", "updates": done, "from_steps": planned, "steps": steps,
            "decay_differs_from": decay, "rates_differ_from": rates}  # fmt: skip


@contextmanager
def explain_missing_paths(output: Path, resume: bool) -> Iterator[None]:
    """Add a hint to the error of a missing file: a resumed run's paths may be relative."""
    try:
        yield
    except FileNotFoundError as error:
        if not resume:
            raise
        raise FileNotFoundError(
            f"{error}; paths in {output / 'config.yaml'} are relative to the folder where the run "
            "was started: resume it from there, or change the paths"
        ) from None


@contextmanager
def explain_divergence(folder: Path, setting: str, value: float) -> Iterator[None]:
    """Add the last checkpoint and a lower rate to try to the error of diverged training."""
    try:
        yield
    except TrainingError as error:
        latest = Checkpoints(folder / "checkpoints").latest()
        saved = f"the last good checkpoint is {latest}" if latest else "no checkpoint was saved yet"
        where = str(error).partition("; ")[0]
        raise TrainingError(
            f"training diverged in {where}; {saved}. Start again with lower rates, as with --set "
            f"{setting}={value / 4:g} (it was {value:g})"
        ) from error
