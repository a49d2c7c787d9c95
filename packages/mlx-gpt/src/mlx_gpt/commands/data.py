"""`mlx-gpt data`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import AT_LEAST_1, INPUT_FOLDER

EPILOG = """\b
Rows of .jsonl, .json, .csv, .parquet (and .gz), by their keys:
  {"text": "..."}                                         text
  {"prompt": "...", "completion": "..."}                  completion
  {"messages": [{"role": "user", "content": "..."}, ...]} chat, with optional "tools"
  {"conversations": [{"from": "human", "value": "..."}]}  ShareGPT
  {"instruction": "...", "input": "...", "output": "..."} Alpaca
  {"prompt": "...", "chosen": "...", "rejected": "..."}   preference
A folder has train, valid and test files.

\b
  mlx-gpt data check data/ --model models/smollm2 --max-tokens 1024
  mlx-gpt data check chats.jsonl more.csv --model runs/d4 --mask last --json

Exit code 1 if there is something to look at: malformed, truncated or dropped rows, copies, rows of
one split in another.
"""


@click.group()
def data() -> None:
    """Check the data of a fine-tuning."""


@data.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", type=INPUT_FOLDER, required=True,
              help="Model or run folder, or one with a tokenizer.")  # fmt: skip
@click.option("--mask", type=click.Choice(["all", "completion", "assistant", "last"]),
              default="assistant", show_default=True,
              help="Train on all tokens, the completion or last turn, all turns of the assistant, "
              "or the last.")  # fmt: skip
@click.option("--max-tokens", type=AT_LEAST_1,
              help="Cut rows after this many tokens.  [default: the model's context]")  # fmt: skip
@click.option("--chat-template", metavar="NAME|FILE",
              help="chatml, plain or a .jinja file instead of the model's.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def check(
    context: click.Context,
    files: tuple[Path, ...],
    model: Path,
    mask: str,
    max_tokens: int | None,
    chat_template: str | None,
    as_json: bool,
) -> None:
    """Show lengths, truncation, what is trained on, copies and padding of FILES or a folder."""
    import json
    import sys

    from mlx_gpt.data.conversation import visualize
    from mlx_gpt.data.inspection import format_inspection, inspect, read_context
    from mlx_gpt.data.splits import find_files
    from mlx_gpt.tokenizer import load_chat_tokenizer

    tokenizer = load_chat_tokenizer(model, chat_template)
    found = inspect(
        find_files(files),
        tokenizer,
        mask,  # type: ignore[arg-type]
        max_tokens or read_context(model),
    )
    if as_json:
        click.echo(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        example = found.example
        click.echo(format_inspection(found))
        click.echo(f"\n{example.where}; lines with + are trained on")
        colour = sys.stdout.isatty()
        click.echo(visualize(tokenizer, example.ids.tolist(), example.trained.tolist(), colour))
    for problem in found.problems:
        click.echo(f"look at {problem}", err=True)
    context.exit(1 if found.problems else 0)
