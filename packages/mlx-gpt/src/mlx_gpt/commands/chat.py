"""`mlx-gpt chat`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gpt.commands.options import (
    INPUT_FOLDER,
    SAMPLING_DEFAULTS,
    api_key,
    api_key_option,
    device_option,
    engine_options,
    sampling_options,
)

if TYPE_CHECKING:
    from mlx_gpt.commands.terminal import Session

_EPILOG = """\b
Without a terminal each line of stdin is a message, and stdout has only the answers:
  printf 'Hello\\nAnd again\\n' | mlx-gpt chat --model runs/d12-sft
With a model behind a server, of mlx-gpt serve or any that is OpenAI-compatible:
  mlx-gpt chat --url http://127.0.0.1:8080
"""

_TEMPERATURE = 0.6
_LOCAL = ("no_tools", "adapter", "kv_bits", "kv_group_size", "draft_model", "num_draft_tokens",
          "ngram", "device")  # fmt: skip


@click.command(epilog=_EPILOG)
@click.option("--model", help="Model or run folder; with --url the model's name there, by default "
              "the server's first.")  # fmt: skip
@click.option("--url", help="Talk with a model behind this server.")
@api_key_option
@click.option("--prompt", help="Answer this one message and exit.")
@click.option("--system", help="Text before the first message.")
@sampling_options(max_tokens=512, temperature=_TEMPERATURE)
@click.option("--no-tools", is_flag=True, help="Ignore the model's calls of its calculator.")
@click.option("--no-history", is_flag=True, help="Do not save your lines for the next chat.")
@engine_options
@device_option
@click.pass_context
def chat(
    context: click.Context,
    model: str | None,
    url: str | None,
    api_key_env: str | None,
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

    if url is not None:
        _refuse_local_options(context)
        session = _connect(url, api_key_env, model, sampling, max_tokens, system)
    else:
        if api_key_env:
            raise click.UsageError("--api-key-env is for --url")
        session = _load(_folder(context, model), sampling, max_tokens, system, no_tools, engine)
    from mlx_gpt.commands.terminal import ChatTerminal, line_history

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


def _load(
    folder: Path,
    sampling: dict[str, Any],
    max_tokens: int,
    system: str | None,
    no_tools: bool,
    engine: dict[str, Any],
) -> Session:
    from mlx_gpt.machine import prepare_machine

    prepare_machine()
    from mlx_gpt.engine.loading import EngineOptions, choose_sampling, load_engine
    from mlx_gpt.engine.session import ChatSession

    chosen, note = choose_sampling(
        sampling, SAMPLING_DEFAULTS | {"temperature": _TEMPERATURE}, folder
    )
    if note:
        click.echo(note, err=True)
    loaded = load_engine(folder, EngineOptions(**engine), tools=not no_tools)
    return ChatSession(loaded, chosen, max_tokens, system)


def _connect(
    url: str,
    api_key_env: str | None,
    model: str | None,
    sampling: dict[str, Any],
    max_tokens: int,
    system: str | None,
) -> Session:
    from mlx_gpt.serve.client import Server
    from mlx_gpt.serve.remote_session import RemoteSession

    server = Server(url, api_key(api_key_env))
    if model is None:
        models = server.models()
        if not models:
            raise click.UsageError(f"{url} lists no model; name one by --model")
        model = models[0]
        others = f", of {', '.join(models)}" if len(models) > 1 else ""
        click.echo(f"model {model}{others}", err=True)
    return RemoteSession(server, model, sampling, max_tokens, system)


def _folder(context: click.Context, model: str | None) -> Path:
    if model is None:
        raise click.UsageError("Missing option '--model', a folder, or '--url'.")
    parameter = next(each for each in context.command.params if each.name == "model")
    return INPUT_FOLDER.convert(model, parameter, context)


def _refuse_local_options(context: click.Context) -> None:
    given = [
        name
        for name in _LOCAL
        if (source := context.get_parameter_source(name)) and source.name != "DEFAULT"
    ]
    if given:
        flags = ", ".join(f"--{each.replace('_', '-')}" for each in given)
        raise click.UsageError(f"{flags}: not with --url; the server decides")
