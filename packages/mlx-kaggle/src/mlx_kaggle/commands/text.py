"""`mlx-kaggle text`."""

import json

import click

from mlx_kaggle.checks import CheckFlags
from mlx_kaggle.commands.options import AS_JSON, setting_sources
from mlx_trainer.command_line import SettingsCommand, settings_options

WIDTH = 50


@click.command(cls=SettingsCommand)
@click.option("--rows", type=click.IntRange(0), default=4, show_default=True,
              help="Texts to show, half of them those that lose most.")  # fmt: skip
@click.option("--encoder", help="Pretrained encoder whose tokenizer counts: hub id or folder.  "
              "[default: a tokenizer trained on the texts]")  # fmt: skip
@setting_sources
@AS_JSON
@settings_options(CheckFlags)
def text(
    flags: dict[str, object],
    rows: int,
    encoder: str | None,
    preset: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show rows as the text network reads them, and how many tokens they have. Trains nothing."""
    from mlx_kaggle.commands.train import has_target
    from mlx_kaggle.settings.config import resolve_config
    from mlx_kaggle.training.token_lengths import preview_texts

    flags = flags | ({"encoder.path": encoder} if encoder else {})
    settings = resolve_config(preset, config, flags, overrides)
    if not settings.data.train:
        raise click.UsageError("Missing option '--train'.")
    if settings.data.task == "forecast":
        raise click.UsageError("--task forecast: the text of a window is in the report of a run")
    if not has_target(settings.data):
        raise click.UsageError("Missing option '--target'.")
    found = preview_texts(settings)
    if as_json:
        click.echo(json.dumps(found.to_dict(rows), ensure_ascii=False))
        return
    _print(found.to_dict(rows))


def _print(found: dict) -> None:
    for each in found["texts"]:
        click.secho(f"row {each['row']}: {each['tokens']} tokens", bold=True)
        click.echo(each["whole"])
        if each["cut"]:
            click.secho(f"within {found['max_tokens']} tokens: {each['kept_tokens']}", bold=True)
            click.echo(each["kept"])
            click.echo(f"cut: {' ... '.join(each['cut'])}")
        click.echo()
    of = f" of {found['of']:,}" if found["of"] != found["rows"] else ""
    click.secho(f"tokens of {found['rows']:,}{of} rows ({found['tokenizer']}), "
                f"mean {found['mean_tokens']:.0f}", bold=True)  # fmt: skip
    most = max(count for _, _, count in found["histogram"])
    width = len(str(found["histogram"][-1][1]))
    for low, high, count in found["histogram"]:
        bar = "█" * round(WIDTH * count / most) or ("▏" if count else "")
        mark = " above the budget" if low > found["max_tokens"] and count else ""
        click.echo(f"{low:>{width}} to {high:>{width}}  {bar} {count}{mark}")
    click.echo(f"{found['share_above']:.1%} of the rows are longer than text.max_tokens "
               f"({found['max_tokens']})")  # fmt: skip
    click.echo(found["report"])
    if found["columns"]:
        click.secho("mean tokens by column", bold=True)
        longest = max(map(len, found["columns"]))
        for name, cost in found["columns"].items():
            click.echo(f"{name:<{longest}}  {cost:6.1f}")
