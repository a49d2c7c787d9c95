"""`mlx-gpt sample`."""

from pathlib import Path
from typing import Any

import click

from mlx_gpt.commands.options import AT_LEAST_1, INPUT_FOLDER, sampling_options

EPILOG = """\b
  mlx-gpt sample --model runs/d12 --prompt "Once upon a time" --temperature 0.8
  mlx-gpt sample --model runs/d12 --prompts-file prompts.txt -n 4 --seed 1 --json
"""


@click.command(epilog=EPILOG)
@click.option("--model", "folder", required=True, type=INPUT_FOLDER, help="Model or run folder.")
@click.option("--prompt", default="", help="Text to continue; - reads stdin.  [default: nothing]")
@click.option("--prompts-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Continue each line of a file.")  # fmt: skip
@click.option("-n", "--samples", default=1, show_default=True, type=AT_LEAST_1,
              help="Continuations of each prompt.")  # fmt: skip
@sampling_options(max_tokens=128, temperature=1.0)
@click.option("--stop", multiple=True, help="End before this text; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def sample(
    folder: Path,
    prompt: str,
    prompts_file: Path | None,
    samples: int,
    max_tokens: int,
    sampling: dict[str, Any],
    stop: tuple[str, ...],
    as_json: bool,
) -> None:
    """Continue text with a base model. A single continuation is shown as it is generated."""
    import sys

    from mlx_gpt.machine import prepare_machine

    prepare_machine()
    from mlx_gpt.engine import Engine, Sampling
    from mlx_gpt.engine.continuations import (
        format_completions,
        make_requests,
        read_prompts,
        stream_text,
    )
    from mlx_gpt.models.files import load
    from mlx_gpt.training.display import printable

    if prompts_file is not None:
        if prompt:
            raise click.UsageError("--prompt and --prompts-file exclude each other")
        prompts = read_prompts(prompts_file)
    else:
        prompts = [sys.stdin.read() if prompt == "-" else prompt]
    if not all(stop):
        raise click.UsageError("--stop must not be empty")
    engine = Engine(*load(folder), tools=False)
    requests = make_requests(
        engine.tokenizer, prompts, samples, max_tokens, Sampling(**sampling), stop
    )
    shown = printable if sys.stdout.isatty() else str
    if len(requests) == 1 and not as_json:
        for text in stream_text(engine, prompts[0], requests[0]):
            click.echo(shown(text), nl=False)
        click.echo()
        return
    for text in format_completions(engine.generate(requests), prompts, samples, as_json):
        click.echo(shown(text))
