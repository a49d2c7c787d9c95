"""The options that several commands share: where settings come from, and what is shown how."""

from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource


def _complete_preset(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    from click.shell_completion import CompletionItem

    from mlx_kaggle.presets import NAMES

    found = [name for name in NAMES if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


PRESET = click.option("--preset", metavar="NAME|FILE", help="Base of the settings; see train.",
                      shell_complete=_complete_preset)  # fmt: skip
CONFIG = click.option("--config", type=click.Path(exists=True, dir_okay=False),
                      help="YAML file of settings.")  # fmt: skip
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                   help="Any setting of config.yaml; repeatable.")  # fmt: skip
AS_JSON = click.option("--json", "as_json", is_flag=True,
                       help="Print one JSON document; all else is on standard error.")  # fmt: skip
DRY_RUN = click.option("--dry-run", is_flag=True,
                       help="Show what would be done and written, and exit.")  # fmt: skip


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
