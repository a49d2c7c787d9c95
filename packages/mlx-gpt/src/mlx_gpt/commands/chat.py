"""`mlx-gpt chat`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import Finite

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

_EPILOG = """\b
Without a terminal each line of stdin is a message, and stdout has the answers only:
  printf 'Hello\\nAnd again\\n' | mlx-gpt chat --model runs/d12-sft
"""


@click.command(epilog=_EPILOG)
@click.option("--model", "folder", required=True, type=FOLDER, help="Model or run folder.")
@click.option("--prompt", help="Answer this one message, and leave.")
@click.option("--system", help="What the model is told before the first message.")
@click.option("--max-tokens", default=512, show_default=True, type=click.IntRange(1),
              help="Most tokens of an answer.")  # fmt: skip
@click.option("--temperature", default=0.6, show_default=True, type=Finite(0),
              help="0 takes the likeliest token.")  # fmt: skip
@click.option("--top-k", default=50, show_default=True, type=click.IntRange(0),
              help="Draw from so many of the likeliest tokens; 0: all.")  # fmt: skip
@click.option("--top-p", default=1.0, show_default=True,
              type=Finite(0, 1, min_open=True),
              help="Draw from the fewest tokens with this share of the probability.")  # fmt: skip
@click.option("--min-p", default=0.0, show_default=True, type=Finite(0, 1),
              help="Draw from tokens at least this share as likely as the likeliest.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), help="Make the same session again.")
@click.option("--no-tools", is_flag=True, help="Do not compute what the model asks to compute.")
@click.option("--no-history", is_flag=True, help="Do not remember your lines for the next time.")
def chat(folder: Path, prompt: str | None, system: str | None, max_tokens: int,
         temperature: float, top_k: int, top_p: float, min_p: float, seed: int | None,
         no_tools: bool, no_history: bool) -> None:  # fmt: skip
    """Talk with a model that was fine-tuned on conversations."""
    import sys
    from contextlib import nullcontext

    from mlx_gpt.machine import prepare_machine

    prepare_machine()
    from mlx_gpt.commands.terminal import ChatTerminal, line_history
    from mlx_gpt.engine import Engine, Sampling
    from mlx_gpt.engine.session import ChatSession
    from mlx_gpt.models.files import load

    engine = Engine(*load(folder), tools=not no_tools)
    sampling = Sampling(temperature, top_k, top_p, min_p, seed)
    session = ChatSession(engine, sampling, max_tokens, system)
    interactive = prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    notes = sys.stdout if interactive else sys.stderr
    terminal = ChatTerminal(session, input, sys.stdout, notes, interactive)
    if prompt is not None:
        terminal.say(prompt)
        return
    history = Path(click.get_app_dir("mlx-gpt")) / "chat_history"
    remember = interactive and not no_history
    with line_history(history) if remember else nullcontext():
        terminal.run()
