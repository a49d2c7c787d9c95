"""`mlx-gpt sft`."""

from pathlib import Path
from typing import Any

import click

from mlx_gpt.commands.options import check_resume

FOLDER = click.Path(file_okay=False, path_type=Path)
POSITIVE = click.IntRange(1)

EPILOG = """\b
Data are JSON lines, each file with rows of one of these layouts:
  {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}
  {"prompt": "...", "completion": "..."}
  {"instruction": "...", "input": "...", "output": "..."}
--data FILE:3 takes a file three times an epoch. --data gsm8k:FILE turns GSM8K's calculator
marks, <<48/2=24>>, into calls of the chat's calculator.

\b
  mlx-gpt sft --model runs/d4 --data dolly.jsonl --data gsm8k:gsm8k.jsonl:4 \\
    --valid held.jsonl --output runs/d4-sft

All assistant turns are learned. Conversations are packed into rows; those longer than a row are
cut (--set data.oversize=drop leaves them out). Batch, rates and momentum are those of the base
run, with nanochat's schedule of fine-tuning.

Settings: --config FILE, then flags, then --set; later ones win. A wrong key is an error.
"""

# Where the settings of the flags are in the configuration.
_KEYS = {
    "model": "model",
    "data": "data.train",
    "valid": "data.valid",
    "epochs": "training.epochs",
    "sequence_len": "training.sequence_len",
    "batch_tokens": "training.batch_tokens",
    "device_batch_size": "training.device_batch_size",
    "dtype": "training.dtype",
    "checkpoint_blocks": "training.checkpoint_blocks",
    "keep_optimizer_state": "training.keep_optimizer_state",
    "seed": "training.seed",
    "threads": "training.threads",
    "evaluate_every": "report.evaluate_every",
    "sample_every": "report.sample_every",
    "checkpoint_every": "report.checkpoint_every",
}


@click.command(epilog=EPILOG)
@click.option("--model", help="Base model: model folder or run folder.")
@click.option("--data", multiple=True, metavar="FILE[:REPEAT]", help="Conversations; repeatable.")
@click.option("--valid", multiple=True, metavar="FILE", help="Held conversations; repeatable.")
@click.option("--output", type=FOLDER, required=True, help="Run folder to write.")
@click.option("--epochs", type=POSITIVE, help="[default: 1]")
@click.option("--sequence-len", type=POSITIVE, help="Tokens a row.  [default: the model's]")
@click.option("--batch-tokens", type=POSITIVE, help="Tokens an update.  [default: the base run's]")
@click.option("--device-batch-size", type=POSITIVE,
              help="Rows at once; less needs less memory.  [default: the base run's]")  # fmt: skip
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]),
              help="[default: float32 on a CPU, bfloat16 elsewhere]")  # fmt: skip
@click.option("--checkpoint-blocks", is_flag=True, default=None,
              help="Gradient checkpointing: less memory, a third more work.")  # fmt: skip
@click.option("--keep-optimizer-state/--fresh-optimizer", default=None,
              help="The momentum of the base run.  [default: kept]")  # fmt: skip
@click.option("--evaluate-every", type=click.IntRange(0), help="Steps.  [default: 200]")
@click.option("--sample-every", type=click.IntRange(0), help="Steps.  [default: 200]")
@click.option("--checkpoint-every", type=click.IntRange(0),
              help="Steps.  [default: every 10 minutes]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), help="Of the order.  [default: 0]")
@click.option("--threads", type=click.IntRange(0), help="On a CPU.  [default: its cores]")
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="YAML of settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting.")
@click.option("--resume", is_flag=True, help="Continue the run in --output where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --output.")
def sft(output: Path, config: str | None, overrides: tuple[str, ...], resume: bool,
        overwrite: bool, **options: Any) -> None:  # fmt: skip
    """Fine-tune a model on conversations, so that it answers."""
    flags = {_KEYS[name]: value for name, value in options.items() if value not in (None, ())}
    check_resume(resume, flags, config or overrides or overwrite)
    for name in ("model", "data"):
        if not (options[name] or resume or config):
            raise click.UsageError(f"Missing option '--{name}'.")
    from mlx_gpt.training.finetuning_runs import run_finetuning
    from mlx_gpt.training.runs import resolve
    from mlx_gpt.training.sft import SftConfig

    chosen = resolve(SftConfig, flags, config, overrides, output, resume)
    run_finetuning(chosen, output, resume, overwrite)
