"""`mlx-gpt generate`."""

from pathlib import Path
from typing import Any

import click

from mlx_gpt.commands.options import (
    AT_LEAST_1,
    INPUT_FOLDER,
    SAMPLING_DEFAULTS,
    device_option,
    engine_options,
    sampling_options,
)

EPILOG = """\b
  mlx-gpt generate --model runs/d12 --prompt "Once upon a time" --temperature 0.8
  mlx-gpt generate --model llama/ --chat --prompt "What is a tensor?" --adapter runs/lora
  mlx-gpt generate --model llama/ --prompts-file prompts.jsonl -n 4 --seed 1 --json
  mlx-gpt generate --model llama/ --draft-model small/ --prompt "def add(" --temperature 0

\b
Rows of a .jsonl file have a prompt, or messages to answer. Speeds are written to stderr.
"""
_TEMPERATURE = 1.0


@click.command(epilog=EPILOG)
@click.option("--model", "folder", required=True, type=INPUT_FOLDER,
              help="Model or run folder, or an adapter's.")  # fmt: skip
@click.option("--prompt", default="", help="Text to continue; - reads stdin.  [default: nothing]")
@click.option("--prompts-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Continue each line of a text file, each row of a .jsonl file.")  # fmt: skip
@click.option("--chat", is_flag=True, help="Prompts are messages: answer in the chat format.")
@click.option("--system", help="System message of chats.")
@click.option("-n", "--samples", default=1, show_default=True, type=AT_LEAST_1,
              help="Continuations of each prompt.")  # fmt: skip
@sampling_options(max_tokens=128, temperature=_TEMPERATURE)
@click.option("--stop", multiple=True, help="End before this text; repeatable.")
@engine_options
@device_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def generate(
    folder: Path,
    prompt: str,
    prompts_file: Path | None,
    chat: bool,
    system: str | None,
    samples: int,
    max_tokens: int,
    sampling: dict[str, Any],
    stop: tuple[str, ...],
    engine: dict[str, Any],
    as_json: bool,
) -> None:
    """Continue texts or answer messages. A single continuation is shown as it is generated."""
    import sys

    from mlx_gpt.machine import prepare_machine

    prepare_machine()
    from mlx_gpt.engine.continuations import (
        Prompt,
        encode,
        format_completions,
        make_requests,
        read_prompts,
        stream_text,
    )
    from mlx_gpt.engine.loading import EngineOptions, choose_sampling, load_engine
    from mlx_gpt.engine.speed import Stopwatch
    from mlx_gpt.printable import printable

    prompts: list[Prompt] = [sys.stdin.read() if prompt == "-" else prompt]
    if prompts_file is not None:
        if prompt:
            raise click.UsageError("--prompt and --prompts-file exclude each other")
        prompts = read_prompts(prompts_file)
    if not all(stop):
        raise click.UsageError("--stop must not be empty")
    if system is not None and not chat and isinstance(prompts[0], str):
        raise click.UsageError("--system needs --chat")
    chosen, note = choose_sampling(
        sampling, SAMPLING_DEFAULTS | {"temperature": _TEMPERATURE}, folder
    )
    if note:
        click.echo(note, err=True)
    loaded = load_engine(folder, EngineOptions(**engine), tools=chat)
    ids = [encode(loaded.tokenizer, each, chat, system) for each in prompts]
    requests = make_requests(ids, samples, max_tokens, chosen, stop)
    shown = printable if sys.stdout.isatty() else str
    watch = Stopwatch(loaded)
    if len(requests) == 1 and not as_json:
        before = "" if chat or not isinstance(prompts[0], str) else prompts[0]
        for text in stream_text(loaded, before, requests[0]):
            click.echo(shown(text), nl=False)
        click.echo()
    else:
        for text in format_completions(loaded.generate(requests), prompts, as_json, chat):
            click.echo(shown(text))
    click.echo(watch.report(), err=True)
