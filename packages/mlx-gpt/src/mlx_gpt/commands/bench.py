"""`mlx-gpt bench`."""

from pathlib import Path
from typing import Any

import click

from mlx_gpt.commands.options import (
    AT_LEAST_1,
    INPUT_FOLDER,
    device_option,
    engine_options,
    numbers,
)

_COLUMNS = "prompt  batch  prefill tok/s  decode tok/s  bare tok/s  engine / bare"


@click.command()
@click.option("--model", "folder", required=True, type=INPUT_FOLDER, help="Model or run folder.")
@click.option("--prompt-tokens", default="128,512", show_default=True, metavar="N,N",
              help="Lengths of prompts.")  # fmt: skip
@click.option("--batch", "batches", default="1", show_default=True, metavar="N,N",
              help="Prompts at a time.")  # fmt: skip
@click.option("--tokens", default=64, show_default=True, type=AT_LEAST_1, help="To generate.")
@click.option("--repeats", default=5, show_default=True, type=AT_LEAST_1,
              help="Runs of each row, after one to warm up; medians are shown.")  # fmt: skip
@engine_options
@device_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def bench(
    folder: Path,
    prompt_tokens: str,
    batches: str,
    tokens: int,
    repeats: int,
    engine: dict[str, Any],
    as_json: bool,
) -> None:
    """Measure how fast a model reads prompts and generates, beside its bare forward pass.

    Prompts are random tokens, decoding is greedy and ends after --tokens. Close other programs.
    """
    import json

    lengths, sizes = (numbers(each) for each in (prompt_tokens, batches))
    from mlx_gpt.machine import peak_memory, prepare_machine

    machine = prepare_machine()
    from mlx_gpt.engine.loading import EngineOptions, load_engine
    from mlx_gpt.engine.speed import measure

    loaded = load_engine(folder, EngineOptions(**engine), tools=False)
    loaded.end_ids = frozenset()
    click.echo(machine, err=True)
    if not as_json:
        click.echo(_COLUMNS)
    for length in lengths:
        for speed in measure(loaded, [length], sizes, tokens, repeats):
            if as_json:
                click.echo(json.dumps(speed.row()))
                continue
            click.echo(
                f"{speed.prompt:6}  {speed.batch:5}  {speed.prefill_tokens_per_second:13.1f}  "
                f"{speed.tokens_per_second:12.1f}  {speed.bare_tokens_per_second:10.1f}  "
                f"{speed.overhead:13.2f}"
            )
    click.echo(f"peak memory {peak_memory() / 2**20:,.0f} MiB", err=True)
    if loaded.counts.passes:
        click.echo(str(loaded.counts), err=True)
