"""`mlx-gpt evaluate`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import AT_LEAST_1, INPUT_FOLDER, OUTPUT_FOLDER, device_option

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

METRICS = ("perplexity", "exact_match", "choices", "bpb", "core", "chat", "gsm8k")

EPILOG = """\b
CORE folders: DCLM's bundle (core.yaml, eval_data/, eval_meta_data.csv), or .jsonl files
whose rows have query, choices, gold; context_options, continuation, gold; or context,
continuation. --chat asks every file that has choices.

\b
Rows of --perplexity and --exact-match have any layout of `mlx-gpt data check`. Each number is
printed beside those of rivals without a model: token frequencies for --perplexity, the most
frequent answer for --exact-match; chance, the most frequent place and the longest choice for
--choices.

\b
  mlx-gpt evaluate --model runs/d12 --bpb shards/shard_00004.parquet --core eval_bundle/
  mlx-gpt evaluate --model runs/sft --chat multiple-choice/ --gsm8k gsm8k/test.jsonl
  mlx-gpt evaluate --model smollm2/ --adapter runs/lora --perplexity held.jsonl
  mlx-gpt evaluate --model smollm2/ --exact-match sums.jsonl --answer number --limit 200
"""


@click.command(epilog=EPILOG)
@click.option("--model", type=INPUT_FOLDER, required=True, help="Model or run folder.")
@click.option("--bpb", metavar="SHARDS", help="Bits per byte of held-out shards.")
@click.option("--core", type=INPUT_FOLDER, help="CORE's tasks, for a base model.")
@click.option(
    "--chat",
    type=INPUT_FOLDER,
    help="Multiple-choice questions answered by letter, for a chat model.",
)
@click.option("--gsm8k", type=FILE, help="Problems answered with #### number: .jsonl")
@click.option("--perplexity", type=FILE, multiple=True,
              help="Loss, perplexity, bits per byte of rows or text; repeatable.")  # fmt: skip
@click.option("--exact-match", type=FILE, help="Greedy answers to the questions of a file.")
@click.option("--choices", type=FILE, help="Choices by likelihood: rows of query, choices, gold.")
@click.option("--adapter", type=INPUT_FOLDER, help="Adapter folder: PEFT's or mlx-lm's.")
@click.option("--chat-template", metavar="NAME|FILE",
              help="chatml, plain or a .jinja file instead of the model's.")  # fmt: skip
@click.option("--mask", type=click.Choice(["all", "completion", "assistant", "last"]),
              default="assistant", show_default=True,
              help="Tokens that count in --perplexity; of texts all.")  # fmt: skip
@click.option("--answer", type=click.Choice(["text", "number"]), default="text", show_default=True,
              help="What --exact-match compares: the text without case, white space and final "
              "full stop; or the last number, after #### if there.")  # fmt: skip
@click.option("--limit", type=AT_LEAST_1,
              help="Use at most this many rows of --perplexity, --exact-match, --choices.  "
              "[default: all]")  # fmt: skip
@click.option("--max-per-task", type=AT_LEAST_1, help="Maximum questions per task.  [default: all]")
@click.option("--bpb-tokens", type=AT_LEAST_1, default=80 * 2**19, show_default=True,
              help="Maximum tokens for --bpb.")  # fmt: skip
@click.option("--oversize", type=click.Choice(["split", "crop"]), default="split",
              show_default=True, help="Documents of --bpb longer than a row: read all of them, or "
              "crop them as nanochat.")  # fmt: skip
@click.option("--shots", type=click.IntRange(0), default=0, show_default=True,
              help="Solved examples before a question, if --core has no core.yaml.")  # fmt: skip
@click.option("--samples", type=AT_LEAST_1, default=1, show_default=True,
              help="Answers per problem of --gsm8k; with more than one, pass@k too.")  # fmt: skip
@click.option("--max-tokens", type=AT_LEAST_1, default=512, show_default=True,
              help="Maximum tokens per answer to --gsm8k and --exact-match.")  # fmt: skip
@click.option(
    "--batch-size", type=AT_LEAST_1, default=16, show_default=True, help="Rows per batch."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
              help="Seed of --samples.")  # fmt: skip
@click.option("--output", type=OUTPUT_FOLDER,
              help="Folder for evaluation.json.  [default: --adapter, else --model]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@device_option
def evaluate(model: Path, output: Path | None, as_json: bool, **options) -> None:
    """Measure a model: perplexity, exact match, choices, bits per byte, CORE, chat, GSM8K."""
    if not any(options[name] for name in METRICS):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in METRICS)
        raise click.UsageError(f"choose what to measure: {flags}")
    import json

    from mlx_gpt.evaluate.evaluation import (
        EvaluationConfig,
        evaluate_folder,
        format_table,
        save_evaluation,
    )
    from mlx_gpt.machine import prepare_machine
    from mlx_trainer import rank

    prepare_machine()
    found = evaluate_folder(model, EvaluationConfig(**options))
    if rank() == 0:
        click.echo(json.dumps(found) if as_json else format_table(found))
        click.echo(save_evaluation(found, output or options["adapter"] or model), err=True)
