"""`mlx-gpt sample`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import Finite

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

EPILOG = """\b
  mlx-gpt sample --model runs/d12 --prompt "Once upon a time" --temperature 0.8
  mlx-gpt sample --model runs/d12 --prompts-file prompts.txt -n 4 --seed 1 --json
"""


@click.command(epilog=EPILOG)
@click.option("--model", "folder", required=True, type=FOLDER, help="Model or run folder.")
@click.option("--prompt", default="", help="Text to continue; - reads stdin.  [default: nothing]")
@click.option("--prompts-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Continue each line of a file.")  # fmt: skip
@click.option("-n", "--samples", default=1, show_default=True, type=click.IntRange(1),
              help="Continuations of each prompt.")  # fmt: skip
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(1),
              help="Most tokens of a continuation.")  # fmt: skip
@click.option("--temperature", default=1.0, show_default=True, type=Finite(0),
              help="0 takes the likeliest token.")  # fmt: skip
@click.option("--top-k", default=50, show_default=True, type=click.IntRange(0),
              help="Draw from so many of the likeliest tokens; 0: all.")  # fmt: skip
@click.option("--top-p", default=1.0, show_default=True,
              type=Finite(0, 1, min_open=True),
              help="Draw from the fewest tokens with this share of the probability.")  # fmt: skip
@click.option("--min-p", default=0.0, show_default=True, type=Finite(0, 1),
              help="Draw from tokens at least this share as likely as the likeliest.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), help="Draw the same again.")
@click.option("--stop", multiple=True, help="End before this text; may be given again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def sample(folder: Path, prompt: str, prompts_file: Path | None, samples: int, max_tokens: int,
           temperature: float, top_k: int, top_p: float, min_p: float, seed: int | None,
           stop: tuple[str, ...], as_json: bool) -> None:  # fmt: skip
    """Continue text with a model: what a base model does. A single one is shown as it comes."""
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
    from mlx_gpt.report.display import printable

    if prompts_file is not None:
        if prompt:
            raise click.UsageError("--prompt and --prompts-file exclude each other")
        prompts = read_prompts(prompts_file)
    else:
        prompts = [sys.stdin.read() if prompt == "-" else prompt]
    if not all(stop):
        raise click.UsageError("--stop must not be empty")
    engine = Engine(*load(folder), tools=False)
    sampling = Sampling(temperature, top_k, top_p, min_p, seed)
    requests = make_requests(engine.tokenizer, prompts, samples, max_tokens, sampling, stop)
    shown = printable if sys.stdout.isatty() else str
    if len(requests) == 1 and not as_json:
        for text in stream_text(engine, prompts[0], requests[0]):
            click.echo(shown(text), nl=False)
        click.echo()
        return
    for text in format_completions(engine.generate(requests), prompts, samples, as_json):
        click.echo(shown(text))
