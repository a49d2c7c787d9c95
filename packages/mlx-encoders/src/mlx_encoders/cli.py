"""The command line `mlx-encoders`: a group whose commands are imported when they are used."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import click

from mlx_encoders import commands
from mlx_encoders._suggest import did_you_mean


class _Commands(click.Group):
    """Commands by the names of the modules in `mlx_encoders.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; a usage error if there is none of this name."""
        names = self.list_commands(ctx)
        if cmd_name not in names:
            ctx.fail(f"no command {cmd_name!r}{did_you_mean(cmd_name, names)}")
        return importlib.import_module(f"mlx_encoders.commands.{cmd_name}").command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of its input becomes one line."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of the output has gone; click ends quietly
            raise
        except (ValueError, OSError, ImportError) as error:
            if ctx.params["debug"]:
                raise
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=_Commands, context_settings={"show_default": True})
@click.option("--debug", is_flag=True, help="Print the traceback of an error.")
@click.version_option(package_name="mlx-encoders")
def cli(debug: bool) -> None:
    """BERT, ModernBERT and NeoBERT encoders in MLX."""


def check_output(folder: Path, overwrite: bool) -> None:
    """Raise a usage error for a folder that holds files, unless they may be overwritten."""
    if folder.is_file():
        raise click.UsageError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise click.UsageError(
            f"{folder} is not empty; name another folder, or add --overwrite to replace the files "
            f"of the same names"
        )
