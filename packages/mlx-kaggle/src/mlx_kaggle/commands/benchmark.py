"""`mlx-kaggle benchmark`."""

import json
from dataclasses import asdict

import click

from mlx_kaggle.commands.options import AS_JSON, DRY_RUN, setting_sources
from mlx_kaggle.settings.config import RunConfig, resolve_config
from mlx_trainer.command_line import SettingsCommand, settings_options


@click.command(cls=SettingsCommand)
@setting_sources
@click.option("--encoders", metavar="PATH,PATH", help="Several encoders, 'scratch' among them.")
@click.option("--batch-sizes", metavar="N,N", help="Rows per update.  [default: of the preset]")
@click.option("--rows", type=click.IntRange(8), default=512, show_default=True,
              help="Most rows to read and to predict.")  # fmt: skip
@DRY_RUN
@AS_JSON
@settings_options(RunConfig)
def benchmark(
    flags: dict[str, object],
    preset: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    encoders: str | None,
    batch_sizes: str | None,
    rows: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure rows per second of training and predicting with the text network, on a table.

    Every encoder is measured with every batch size, a pretrained one with the preset standard if
    none is given; nothing is written.
    """
    if "data.train" not in flags:
        raise click.UsageError("Missing option '--train'.")
    if encoders and "encoder.path" in flags:
        raise click.UsageError("give --encoder or --encoders, not both")
    sizes = _sizes(batch_sizes)
    paths = (
        [each.strip() for each in encoders.split(",")] if encoders else [flags.get("encoder.path")]
    )
    configs = []
    for path in paths:
        given = {**flags, "encoder.path": path} if path else flags
        base = preset or ("standard" if path and path != "scratch" and not config else None)
        configs.append(resolve_config(base, config, given, overrides))
    if dry_run:
        _plan(configs, sizes, rows, as_json)
        return
    from mlx_kaggle.machine import prepare_machine
    from mlx_kaggle.training.speed import measure_speeds

    click.echo(f"mlx-fastcpu: {prepare_machine()}", err=True)
    speeds = measure_speeds(configs, sizes, rows)
    if as_json:
        click.echo(json.dumps([asdict(speed) for speed in speeds]))
        return
    for number, speed in enumerate(speeds):
        if number == 0:
            click.echo(HEADING)
        shown = f"{speed.tokens_per_row:>7.1f} {speed.training_rows:>9.1f}"
        click.echo(
            f"{speed.encoder[-32:]:<32} {speed.parameters / 1e6:>8.1f} M {speed.batch_size:>6} "
            f"{shown} {speed.predicted_rows:>9.1f} {speed.peak_mib:>9.0f}"
        )


HEADING = (
    f"{'encoder':<32} {'parameters':>10} {'batch':>6} {'tokens':>7} {'train/s':>9} "
    f"{'predict/s':>9} {'peak MiB':>9}"
)


def _plan(configs: list[RunConfig], sizes: list[int], rows: int, as_json: bool) -> None:
    from mlx_kaggle.dry_run import local_encoder, show_plan
    from mlx_kaggle.tables.files import read_tables, row_count

    names = [each.encoder.path or "scratch" for each in configs]
    would = [
        f"download the encoder {absent}, of which no copy is here"
        for config in configs if (absent := local_encoder(config)[1])
    ]  # fmt: skip
    used = sizes or sorted({each.training.batch_size for each in configs})
    found = min(rows, row_count(read_tables(configs[0].data).train))
    networks = len(configs) * len(sizes or [0])
    would += [
        f"measure {networks} networks ({', '.join(names)}; rows per update: "
        f"{', '.join(map(str, used))}) on at most {found} rows",
        "write nothing",
    ]
    show_plan(would, as_json, encoders=names, batch_sizes=used, rows=found, networks=networks)


def _sizes(text: str | None) -> list[int]:
    try:
        found = [int(each) for each in text.split(",")] if text else []
    except ValueError:
        found = [0]
    if any(each < 1 for each in found):
        raise click.BadParameter(f"{text!r} is not numbers above 0, such as 16,32",
                                 param_hint="'--batch-sizes'")  # fmt: skip
    return found
