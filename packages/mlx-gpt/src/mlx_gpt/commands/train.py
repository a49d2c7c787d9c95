"""`mlx-gpt train`."""

from functools import partial
from pathlib import Path

import click

from mlx_gpt.commands.options import OUTPUT_FOLDER, SETTINGS_EPILOG, RunOptions, run_options
from mlx_gpt.training.settings import PretrainConfig
from mlx_trainer.command_line import SettingsCommand, settings_options

EPILOG = """\b
--depth sets the width, tokens, batch, steps, learning rates and weight decay, by nanochat's
rules. Your settings override these. --dry-run prints the plan.

\b
On a laptop or a few CPU cores:
  mlx-gpt train --data shards/ --tokenizer tokenizer/ --output runs/d4 --depth 4 \\
    --sequence-len 512 --batch-tokens 16384 --device-batch-size 8 --steps 500

\b
Two processes that share each batch:
  mlx.launch -n 2 -- mlx-gpt train ...

\b
Extend a run, even a finished one; pretrain a model further on other text:
  mlx-gpt train --resume --output runs/d4 --steps 1000
  mlx-gpt train --init-from runs/d4 --data other/ --output runs/d4-other --steps 500

"""


@click.command(cls=SettingsCommand, epilog=EPILOG + SETTINGS_EPILOG)
@click.option("--output", type=OUTPUT_FOLDER, help="Run folder to write.")
@run_options
@click.option("--dry-run", is_flag=True, help="Print the plan and exit.")
@settings_options(PretrainConfig)
def train(flags: dict[str, object], output: Path | None, run: RunOptions, dry_run: bool) -> None:
    """Pretrain a GPT on shards of text, with nanochat's model, optimizer and rules."""
    required = {"data.train": "--data"}
    if "model.init_from" not in flags:
        required["data.tokenizer"] = "--tokenizer"
    if output is None and not dry_run:
        raise click.UsageError("Missing option '--output'.")
    run.check(flags, required, "training.steps")
    from mlx_gpt.training.base_model import check_shape, settings_from_model
    from mlx_gpt.training.plan import plan_for
    from mlx_gpt.training.pretrain import run_pretraining
    from mlx_gpt.training.runs import read_config

    read = partial(
        read_config, PretrainConfig, flags, run.config, run.overrides, output, run.resume
    )
    chosen = read(base={"data": {"tokenizer": ""}})
    if not run.resume:
        init_from = chosen.model.init_from
        from_model = settings_from_model(init_from) if init_from else {}
        chosen = read(base=from_model)
        if from_model:
            check_shape(chosen, from_model)
    if dry_run:
        from mlx_gpt.tokenizer import Tokenizer

        click.echo(plan_for(chosen, Tokenizer.load(chosen.data.tokenizer).vocab_size).table())
        return
    assert output is not None
    steps = flags.get("training.steps") if run.resume else None
    run_pretraining(chosen, output, run.resume, run.overwrite, steps)  # type: ignore[arg-type]
