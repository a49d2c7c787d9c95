"""`mlx-gpt estimate`."""

import click

from mlx_gpt.commands.options import SETTINGS_EPILOG, device_option
from mlx_gpt.training.finetune_settings import PROFILES, FinetuneConfig
from mlx_trainer.command_line import SettingsCommand, settings_options

EPILOG = """\b
The settings are those of `mlx-gpt finetune`. With --data the largest micro-batch is that of the
rows; without, it is a full one of the longest rows. No weights are read.
  mlx-gpt estimate --model llama/ --method qlora --max-tokens 2048

"""


@click.command(cls=SettingsCommand, epilog=EPILOG + SETTINGS_EPILOG)
@click.option("--profile", type=click.Choice(PROFILES), help="Settings for a kind of data.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="YAML of settings.")
@device_option
@settings_options(FinetuneConfig)
def estimate(
    flags: dict[str, object], profile: str | None, overrides: tuple[str, ...], config: str | None
) -> None:
    """Tell the memory that fine-tuning needs, before anything is loaded."""
    if "model" not in flags and not config:
        raise click.UsageError("Missing option '--model'.")
    from mlx_gpt.training.estimate import describe
    from mlx_gpt.training.estimate import estimate as estimate_memory
    from mlx_gpt.training.finetune_plan import plan_run
    from mlx_gpt.training.finetune_settings import check_given, read_profile
    from mlx_trainer import config_sources, load_config

    base = {"data": {"train": []}} if profile is None else read_profile(profile)
    base["data"].setdefault("train", [])
    chosen = load_config(FinetuneConfig, base, config, overrides, flags)
    chosen = check_given(chosen, config_sources(None, config, overrides, flags))
    has_data = bool(chosen.data.train)
    for line in plan_run(chosen) if has_data else describe(estimate_memory(chosen), chosen):
        click.echo(line)
