"""The options that several commands share: where settings come from, and what --resume allows."""

from collections.abc import Callable, Sequence

import click
from click.core import ParameterSource

PRESET = click.option("--preset", metavar="NAME|FILE", help="Base of the settings; see train.")
CONFIG = click.option("--config", type=click.Path(exists=True, dir_okay=False),
                      help="YAML file of settings.")  # fmt: skip
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                   help="Any setting of config.yaml; repeatable.")  # fmt: skip


def setting_sources(function: Callable) -> Callable:
    """Add the options `preset`, `config` and `overrides`; flags are between the last two."""
    return PRESET(CONFIG(SET(function)))


def refuse_beside_resume(allowed: Sequence[str]) -> None:
    """Raise a usage error for a given option that is not `allowed` beside --resume."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in (*allowed, "resume"):
            raise click.UsageError(
                f"--resume takes everything from --output; omit {parameter.opts[0]}"
            )
