"""`mlx-encoders pretrain`: masked-language-model training on text files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

_CHECKPOINT = "pretraining.safetensors"


@click.command("pretrain")
@click.option("--model", "name", required=True, help="Folder or hub id.")
@click.option("--data", required=True, multiple=True,
              help="Text files or patterns: .txt, .jsonl, .jsonl.gz, .parquet.")  # fmt: skip
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--held-out", multiple=True,
              help="Text files to measure on, instead of a share of --data.")  # fmt: skip
@click.option("--column", default="text", help="Column of the text.")
@click.option("--fresh", is_flag=True, help="Start from random weights; use only the config.")
@click.option("--length", type=click.IntRange(3), default=128, help="Tokens a row.")
@click.option("--join/--no-join", default=True,
              help="Fill rows with several documents, or start a row with each.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), default=32)
@click.option("--epochs", type=click.IntRange(1), default=1)
@click.option("--steps", type=click.IntRange(1), help="Updates, instead of --epochs.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-4)
@click.option("--warmup-share", type=click.FloatRange(0, 1, max_open=True), default=0.1)
@click.option("--weight-decay", type=click.FloatRange(0), default=0.01)
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True),
              help="[default: that of the config]")  # fmt: skip
@click.option("--attention-dropout", type=click.FloatRange(0, 1, max_open=True),
              help="0 is faster.  [default: that of the config]")  # fmt: skip
@click.option("--probability", type=click.FloatRange(0, 1, min_open=True),
              help="Share of tokens to predict.  [default: that of the architecture]")  # fmt: skip
@click.option("--whole-word", is_flag=True, help="Hide whole words.")
@click.option("--held-out-share", type=click.FloatRange(0, 1, max_open=True), default=0.05)
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--checkpoint-every", type=click.IntRange(1), default=500, help="Updates.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the output folder.")
@click.option("--overwrite", is_flag=True, help="Replace files in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    name: str,
    data: tuple[str, ...],
    output: Path,
    held_out: tuple[str, ...],
    column: str,
    fresh: bool,
    dropout: float | None,
    attention_dropout: float | None,
    probability: float | None,
    whole_word: bool,
    checkpoint_every: int,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Adapt an encoder to the language of your texts, before fine-tuning.

    Writes a folder that loads as an encoder, or as a model for masked language modeling. Shows the
    loss on held-out documents before and after, beside that of token frequencies.
    """
    from dataclasses import asdict, replace

    from mlx_encoders.cli import check_output
    from mlx_encoders.masking import masking_of
    from mlx_encoders.pretraining import pretrain
    from mlx_encoders.pretraining_settings import PretrainingSettings
    from mlx_encoders.text_files import read_texts

    checkpoint = output / _CHECKPOINT
    if resume and not checkpoint.is_file():
        raise click.UsageError(f"there is no {checkpoint} to resume from; leave out --resume")
    if checkpoint.is_file() and not (resume or overwrite):
        raise click.UsageError(f"{checkpoint} is of a stopped run; add --resume or --overwrite")
    if not resume:
        check_output(output, overwrite)
    files, held_out_files = _expand(data), _expand(held_out)
    model, tokenizer = _load(name, fresh, options["seed"], dropout, attention_dropout)
    masking = replace(masking_of(model.config), whole_word=whole_word)
    if probability is not None:
        masking = replace(masking, probability=probability)
    settings = PretrainingSettings(masking=masking, **options)
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        checkpoint.unlink(missing_ok=True)  # of a stopped run, given --overwrite
    with _progress() as show:
        report = pretrain(
            model,
            tokenizer,
            read_texts(files, column),
            settings,
            held_out_texts=read_texts(held_out_files, column) if held_out else None,
            report=show,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
        )
    model.save_pretrained(output, tokenizer)
    checkpoint.unlink(missing_ok=True)
    _print(asdict(report), as_json)


def _expand(patterns: tuple[str, ...]) -> list[str]:
    """Return the files of names and patterns, sorted within each pattern."""
    import glob

    files = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (Path.glob: not absolute)
        if not found:
            raise click.UsageError(f"no file matches {pattern!r}")
        files += found
    return files


def _load(
    name: str, fresh: bool, seed: int, dropout: float | None, attention_dropout: float | None
) -> tuple[Any, Any]:
    import mlx.core as mx

    from mlx_encoders.build import build_model
    from mlx_encoders.files import find_folder
    from mlx_encoders.folders import load_config, load_model
    from mlx_encoders.pretraining import masked_lm_class
    from mlx_encoders.tokenizer import Tokenizer

    folder = find_folder(name)
    config = load_config(folder)
    model_class = masked_lm_class(config)
    tokenizer = Tokenizer.from_folder(folder)
    if fresh:
        config = config.with_dropout(dropout, attention_dropout)
        return build_model(config, seed, model_class=model_class), tokenizer
    heads = ("cls.predictions.", "head.", "decoder.")
    # Updates of 1e-4 would be lost in the rounding of float16.
    model, report = load_model(
        folder, heads, seed, mx.float32, dropout, attention_dropout, model_class=model_class
    )
    if report.missing:
        click.echo(f"the checkpoint has no head: {len(report.missing)} new tensors", err=True)
    return model, tokenizer


def _progress() -> Any:
    """Return a context manager of a function that shows a step on stderr."""
    from contextlib import contextmanager

    @contextmanager
    def lines() -> Iterator[Any]:
        import sys
        import time

        printed = time.monotonic()

        def show(step: Any) -> None:
            nonlocal printed
            if step.step in (1, step.steps) or time.monotonic() - printed > 10:
                printed = time.monotonic()
                click.echo(
                    f"step {step.step}/{step.steps}  loss {step.loss:.3f}  "
                    f"learning rate {step.learning_rate:.2e}",
                    err=True,
                )

        if not sys.stderr.isatty():
            yield show
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("pretraining", total=None)
            yield lambda step: bar.update(
                task, total=step.steps, completed=step.step, description=f"loss {step.loss:.3f}"
            )

    return lines()


def _print(values: dict[str, Any], as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps(values))
        return
    for key, value in values.items():
        shown = f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
        click.echo(f"{key.replace('_', ' ')}: {shown}")
