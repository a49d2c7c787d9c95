"""Start or continue a run folder, as `mlx-gpt train` and the other training commands do."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from mlx_gpt.data.formats import Source
from mlx_gpt.machine import prepare_machine
from mlx_gpt.models.files import MODEL_FILES, find_model_folder
from mlx_gpt.report.display import Display
from mlx_gpt.training.going_on import divergence_explained, extended
from mlx_gpt.training.limits import check_ranges
from mlx_gpt.training.pretrain import build, pretrain
from mlx_gpt.training.pretrain_config import PretrainConfig
from mlx_trainer import (
    CHECKPOINT_FILES,
    ConfigError,
    RunFolder,
    RunKind,
    lasting_output,
    load_config,
    rank,
    wait_for_all,
)

T = TypeVar("T")

KIND = RunKind(
    "mlx-gpt",
    (
        *(f"model/{name}" for name in MODEL_FILES),
        *(f"checkpoints/{name}" for name in CHECKPOINT_FILES),
        *("evaluation.json", "report.json", "report.md", "curves.png"),
    ),
)


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
        for note in job.notes:
            display.say(note)
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
        file = str(RunFolder.open(output, KIND).path / "config.yaml")
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
def opened(output: Path, config: Any, resume: bool, overwrite: bool) -> Iterator[RunFolder | None]:
    """Give the locked run, made or opened, on rank 0, and None on others, which wait for it.

    Raises what `RunFolder.create` and `RunFolder.resume` do.
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

    What a pattern or address names is not among them: the stream compares its shards itself.
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
        if isinstance(value, list):  # of conversations, each maybe with a mark and a number
            found |= {f"data.{name}[{n}]": Source.parse(each).path for n, each in enumerate(value)}
        elif value and Path(value).exists():
            found[f"data.{name}"] = value
    return found


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


def _text(value: object) -> str:
    # A path or a word is taken as it is where the field is text; all else is read as YAML.
    return value if isinstance(value, str) else json.dumps(value)
