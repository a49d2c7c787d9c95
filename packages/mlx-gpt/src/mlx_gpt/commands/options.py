"""Options that several commands share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from mlx_trainer.command_line import Finite

INPUT_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUTPUT_FOLDER = click.Path(file_okay=False, path_type=Path)
AT_LEAST_1 = click.IntRange(1)

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace --output, if it is a folder that mlx-gpt wrote."
)


def _use_device(context: click.Context, parameter: click.Parameter, value: str) -> None:
    if value == "auto":
        return
    from mlx_gpt.machine import use_device

    try:
        use_device(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True,
    expose_value=False, callback=_use_device,
    help="auto: Metal, else CUDA, else the CPU.",
)  # fmt: skip

SETTINGS_EPILOG = """\
Settings: --config FILE, then flags, then --set; later ones win. A wrong key is an error.
"""


@dataclass(frozen=True)
class RunOptions:
    """The options of a training command besides its settings."""

    config: str | None
    overrides: tuple[str, ...]
    resume: bool
    overwrite: bool

    def check(
        self, flags: Mapping[str, object], required: Mapping[str, str], changeable: str = ""
    ) -> None:
        """Raise a usage error for a missing flag, and for settings given with `--resume`.

        `required` maps keys to flags; only the setting `changeable` is allowed with `--resume`.
        """
        others = self.config or self.overrides or self.overwrite
        if self.resume and (others or flags.keys() - {changeable}):
            but = f" but --{changeable.rpartition('.')[2]}" if changeable else ""
            raise click.UsageError(
                f"--resume takes everything{but} from --output; leave the rest out"
            )
        for key, flag in required.items():
            if not (key in flags or self.resume or self.config):
                raise click.UsageError(f"Missing option '{flag}'.")


def run_options(function: Callable) -> Callable:
    """Add the options of `RunOptions`, which the command gets as `run`, and `--device`."""
    names = [each.name for each in fields(RunOptions)]

    @wraps(function)
    def command(**values: Any) -> Any:
        run = RunOptions(**{name: values.pop(name) for name in names})
        return function(run=run, **values)

    for option in (
        click.option("--overwrite", is_flag=True, help="Replace the run in --output."),
        click.option("--resume", is_flag=True, help="Continue the run in --output."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                     help="Any setting of config.yaml; repeatable."),
        click.option("--config", type=click.Path(exists=True, dir_okay=False),
                     help="YAML file of settings."),
    ):  # fmt: skip
        command = option(command)
    return device_option(command)


def sampling_options(max_tokens: int, temperature: float) -> Callable[[Callable], Callable]:
    """Return a decorator that adds the options of sampling, with these defaults, and `--device`.

    The command gets `max_tokens`, and `sampling` with the arguments of `Sampling`.
    """
    names = ("temperature", "top_k", "top_p", "min_p", "seed")

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def command(**values: Any) -> Any:
            return function(sampling={name: values.pop(name) for name in names}, **values)

        for option in (
            click.option("--seed", type=click.IntRange(0), help="Makes the sampling repeatable."),
            click.option("--min-p", default=0.0, show_default=True, type=Finite(0, 1),
                         help="Sample from tokens with this fraction of the top probability."),
            click.option("--top-p", default=1.0, show_default=True,
                         type=Finite(0, 1, min_open=True),
                         help="Sample from the fewest tokens with this share of the probability."),
            click.option("--top-k", default=50, show_default=True, type=click.IntRange(0),
                         help="Sample from this many of the likeliest tokens; 0: all."),
            click.option("--temperature", default=temperature, show_default=True, type=Finite(0),
                         help="0 takes the likeliest token."),
            click.option("--max-tokens", default=max_tokens, show_default=True, type=AT_LEAST_1,
                         help="Maximum tokens to generate."),
        ):  # fmt: skip
            command = option(command)
        return device_option(command)

    return decorate
