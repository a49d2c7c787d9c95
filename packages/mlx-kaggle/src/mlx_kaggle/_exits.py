# Vendored: byte-identical in every package that has it; `tools/check_vendored.py` compares.
"""Run a command line: what goes wrong becomes one line and an exit code."""

import sys
from collections.abc import Callable
from typing import NoReturn

import click


def run(
    cli: click.Group, given: list[str], explain: Callable[[Exception], str], interrupted: str
) -> NoReturn:
    """Exit with 0 when done, 2 for wrong usage, 1 for a failure, in the words of `explain`, or 130.

    `--debug` among the arguments `given` shows the traceback instead.
    """
    try:
        status = cli.main([each for each in given if each != "--debug"], standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(interrupted, err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if "--debug" in given:
            raise
        click.echo(f"Error: {' '.join(explain(error).split())}", err=True)
        sys.exit(1)
