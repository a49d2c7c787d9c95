"""`mlx-gpt eval`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import AT_LEAST_1, INPUT_FOLDER, OUTPUT_FOLDER

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

EPILOG = """\b
CORE folders: DCLM's bundle (core.yaml, eval_data/, eval_meta_data.csv), or .jsonl files
whose rows have query, choices, gold; context_options, continuation, gold; or context,
continuation. --chat asks every file that has choices.

\b
  mlx-gpt eval --model runs/d12 --bpb shards/shard_00004.parquet --core eval_bundle/
  mlx-gpt eval --model runs/sft --chat multiple-choice/ --gsm8k gsm8k/test.jsonl
"""


@click.command("eval", epilog=EPILOG)
@click.option("--model", type=INPUT_FOLDER, required=True, help="Model or run folder.")
@click.option("--bpb", metavar="SHARDS", help="Bits per byte of held-out shards.")
@click.option("--core", type=INPUT_FOLDER, help="CORE's tasks, for a base model.")
@click.option(
    "--chat",
    type=INPUT_FOLDER,
    help="Multiple-choice questions answered by letter, for a chat model.",
)
@click.option("--gsm8k", type=FILE, help="Problems answered with #### number: .jsonl")
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
              help="Maximum tokens per answer to --gsm8k.")  # fmt: skip
@click.option(
    "--batch-size", type=AT_LEAST_1, default=16, show_default=True, help="Rows per batch."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
              help="Seed of --samples.")  # fmt: skip
@click.option("--output", type=OUTPUT_FOLDER,
              help="Folder for evaluation.json.  [default: --model]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def evaluate(model: Path, output: Path | None, as_json: bool, **options) -> None:
    """Measure a model: bits per byte, CORE, chat questions, GSM8K."""
    if not any(options[name] for name in ("bpb", "core", "chat", "gsm8k")):
        raise click.UsageError("choose what to measure: --bpb, --core, --chat or --gsm8k")
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
        click.echo(save_evaluation(found, output or model), err=True)
