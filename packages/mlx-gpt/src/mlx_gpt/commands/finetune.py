"""`mlx-gpt finetune`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import OUTPUT_FOLDER, SETTINGS_EPILOG, RunOptions, run_options
from mlx_gpt.training.finetune_settings import PROFILES, FinetuneConfig
from mlx_trainer.command_line import SettingsCommand, settings_options

EPILOG = """\b
Train an adapter on conversations, texts, instructions or preferences:
  mlx-gpt finetune --model llama/ --data chats.jsonl --valid held.jsonl --output runs/chat
  mlx-gpt finetune --model llama/ --data chats.jsonl --method qlora --output runs/chat4
  mlx-gpt finetune --model llama/ --data pairs.jsonl --objective dpo --output runs/dpo
  mlx-gpt generate --model runs/chat --prompt "Once"

\b
--profile sets defaults for a kind of data; your settings override them. --dry-run prints rows,
tokens, updates, parameters and the estimated memory. `mlx-gpt sft` has nanochat's recipe.

"""


@click.command(cls=SettingsCommand, epilog=EPILOG + SETTINGS_EPILOG)
@click.option("--output", type=OUTPUT_FOLDER, help="Run folder to write.")
@click.option("--profile", type=click.Choice(PROFILES), help="Settings for a kind of data.")
@click.option("--dry-run", is_flag=True, help="Print the plan and exit.")
@run_options
@settings_options(FinetuneConfig)
def finetune(
    flags: dict[str, object], output: Path | None, profile: str | None, dry_run: bool,
    run: RunOptions,
) -> None:  # fmt: skip
    """Fine-tune any model: LoRA, DoRA, QLoRA or all weights, on rows or preferences."""
    run.check(flags, {"model": "--model", "data.train": "--data"})
    if output is None and not dry_run:
        raise click.UsageError("Missing option '--output'.")
    if run.resume and (profile or dry_run):
        raise click.UsageError("--resume takes everything from --output; leave the rest out")
    from mlx_gpt.training.finetune_settings import check_given, read_profile
    from mlx_gpt.training.runs import read_config
    from mlx_trainer import config_sources

    base = read_profile(profile) if profile else None
    chosen = read_config(FinetuneConfig, flags, run.config, run.overrides, output, run.resume, base)
    if not run.resume:
        chosen = check_given(chosen, config_sources(None, run.config, run.overrides, flags))
    if dry_run:
        from mlx_gpt.training.finetune_plan import plan_run

        for line in plan_run(chosen):
            click.echo(line)
        return
    from mlx_gpt.training.finetune import run_finetune

    assert output is not None
    run_finetune(chosen, output, run.resume, run.overwrite)
