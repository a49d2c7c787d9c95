"""`mlx-gpt chat`."""

from pathlib import Path
from typing import Any

import click

from mlx_gpt.commands.options import (
    INPUT_FOLDER,
    SAMPLING_DEFAULTS,
    device_option,
    engine_options,
    sampling_options,
)

_EPILOG = """\b
Without a terminal each line of stdin is a message, and stdout has only the answers:
  printf 'Hello\\nAnd again\\n' | mlx-gpt chat --model runs/d12-sft
"""

_TEMPERATURE = 0.6


@click.command(epilog=_EPILOG)
@click.option("--model", "folder", required=True, type=INPUT_FOLDER, help="Model or run folder.")
@click.option("--prompt", help="Answer this one message and exit.")
@click.option("--system", help="Text before the first message.")
@sampling_options(max_tokens=512, temperature=_TEMPERATURE)
@click.option("--no-tools", is_flag=True, help="Ignore the model's calls of its calculator.")
@click.option("--no-history", is_flag=True, help="Do not save your lines for the next chat.")
@engine_options
@device_option
def chat(
    folder: Path,
    prompt: str | None,
    system: str | None,
    max_tokens: int,
    sampling: dict[str, Any],
    no_tools: bool,
    no_history: bool,
    engine: dict[str, Any],
) -> None:
    """Talk with a model that was fine-tuned on conversations, in its own chat format."""
    import sys
    from contextlib import nullcontext

    from mlx_gpt.machine import prepare_machine

    prepare_machine()
    from mlx_gpt.commands.terminal import ChatTerminal, line_history
    from mlx_gpt.engine.loading import EngineOptions, choose_sampling, load_engine
    from mlx_gpt.engine.session import ChatSession

    chosen, note = choose_sampling(
        sampling, SAMPLING_DEFAULTS | {"temperature": _TEMPERATURE}, folder
    )
    if note:
        click.echo(note, err=True)
    loaded = load_engine(folder, EngineOptions(**engine), tools=not no_tools)
    session = ChatSession(loaded, chosen, max_tokens, system)
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
