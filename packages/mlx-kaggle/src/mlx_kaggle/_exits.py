# Vendored: byte-identical in every package that has it; `tools/check_vendored.py` compares.
"""Run a command line: what goes wrong becomes one line and an exit code."""

import contextlib
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import click


def run(
    cli: click.Group, given: list[str], explain: Callable[[Exception], str], interrupted: str
) -> NoReturn:
    """Exit with 0 when done, 2 for wrong usage, 1 for a failure, in the words of `explain`.

    SIGINT, SIGTERM and SIGHUP end it with 128 + number, and with `interrupted` and the error's own
    words. An error with an `exit_code` chooses that. `--debug` among the arguments `given` shows
    the traceback instead.
    """
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
                signal.signal(number, _interrupt)
        status = cli.main([each for each in given if each != "--debug"], standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ or error  # click makes an Abort of an interrupt
        number = getattr(cause, "signal_number", signal.SIGINT)
        words = [signal.Signals(number).name, *filter(None, [str(cause)])]
        say(f"{interrupted} ({'; '.join(words)})")
        sys.exit(128 + number)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if "--debug" in given:
            raise
        say(f"Error: {' '.join(explain(error).split())}")
        sys.exit(getattr(error, "exit_code", 1))


def say(line: str) -> None:
    """Print a line to standard error, if there still is one."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def _interrupt(number: int, frame: object) -> NoReturn:
    error = KeyboardInterrupt()
    error.signal_number = number  # type: ignore[attr-defined]
    raise error
