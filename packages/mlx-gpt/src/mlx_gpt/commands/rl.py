"""`mlx-gpt rl`."""

from pathlib import Path
from typing import Any

import click

from mlx_gpt.commands.options import Finite, check_resume

FILE = click.Path(exists=True, dir_okay=False)
FOLDER = click.Path(file_okay=False, path_type=Path)
POSITIVE = click.IntRange(1)

EPILOG = """\b
In each round every question gets several answers; those better than the mean of their group
become likelier. An answer is right if its "#### number" is that of the solution.

\b
  mlx-gpt rl --model runs/d4-sft --data gsm8k/train.jsonl --valid gsm8k/test.jsonl \\
    --output runs/d4-rl

Settings: --config FILE, then flags, then --set; later ones win. A wrong key is an error.
"""

# Where the settings of the flags are in the configuration.
_KEYS = {
    "model": "model",
    "data": "data.train",
    "valid": "data.valid",
    "epochs": "training.epochs",
    "questions": "answers.questions",
    "samples": "answers.samples",
    "max_tokens": "answers.max_tokens",
    "temperature": "answers.temperature",
    "top_k": "answers.top_k",
    "device_batch_size": "training.device_batch_size",
    "dtype": "training.dtype",
    "checkpoint_blocks": "training.checkpoint_blocks",
    "seed": "training.seed",
    "threads": "training.threads",
    "evaluate_every": "report.evaluate_every",
    "checkpoint_every": "report.checkpoint_every",
}


@click.command(epilog=EPILOG)
@click.option("--model", help="Fine-tuned model: model folder or run folder.")
@click.option("--data", type=FILE, help="GSM8K questions with solutions, JSON lines.")
@click.option("--valid", type=FILE, help="Held questions, for pass@k.")
@click.option("--output", type=FOLDER, required=True, help="Run folder to write.")
@click.option("--epochs", type=POSITIVE, help="[default: 1]")
@click.option("--questions", type=POSITIVE, help="In a round.  [default: 16, or all]")
@click.option("--samples", type=POSITIVE, help="Answers to a question.  [default: 16]")
@click.option("--max-tokens", type=POSITIVE, help="Of an answer.  [default: 256]")
@click.option("--temperature", type=Finite(0, min_open=True), help="[default: 1]")
@click.option("--top-k", type=click.IntRange(0), help="Tokens drawn from; 0: all.  [default: 50]")
@click.option("--device-batch-size", type=POSITIVE,
              help="At most so many answers learned from at once.  [default: 8]")  # fmt: skip
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]),
              help="[default: float32 on a CPU, bfloat16 elsewhere]")  # fmt: skip
@click.option("--checkpoint-blocks", is_flag=True, default=None,
              help="Gradient checkpointing: less memory, a third more work.")  # fmt: skip
@click.option("--evaluate-every", type=click.IntRange(0), help="Rounds.  [default: 60]")
@click.option("--checkpoint-every", type=click.IntRange(0), help="Rounds.  [default: 60]")
@click.option("--seed", type=click.IntRange(0), help="Of the answers.  [default: 0]")
@click.option("--threads", type=click.IntRange(0), help="On a CPU.  [default: its cores]")
@click.option("--config", type=FILE, help="YAML of settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting.")
@click.option("--resume", is_flag=True, help="Continue the run in --output where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --output.")
def rl(output: Path, config: str | None, overrides: tuple[str, ...], resume: bool,
       overwrite: bool, **options: Any) -> None:  # fmt: skip
    """Reinforce right answers to GSM8K questions."""
    flags = {_KEYS[name]: value for name, value in options.items() if value is not None}
    check_resume(resume, flags, config or overrides or overwrite)
    for name in ("model", "data"):
        if not (options[name] or resume or config):
            raise click.UsageError(f"Missing option '--{name}'.")
    from mlx_gpt.training.finetuning_runs import run_reinforcement
    from mlx_gpt.training.rl import RlConfig
    from mlx_gpt.training.runs import resolve

    chosen = resolve(RlConfig, flags, config, overrides, output, resume)
    run_reinforcement(chosen, output, resume, overwrite)
