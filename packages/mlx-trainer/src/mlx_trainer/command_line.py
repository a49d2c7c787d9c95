"""Shared parts of the applications' command lines: flags from a configuration, errors, exit codes.

Needs the extra `cli` (click). All other imports are fast, so that `--help` is fast.
"""

import contextlib
import dataclasses
import functools
import math
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import click

from mlx_trainer.settings import Setting, setting_of

NO_BACKEND = (
    "MLX has no backend on this machine; install one: pip install 'mlx[cpu]' (or 'mlx[cuda12]', "
    "'mlx[cuda13]' with an NVIDIA GPU)"
)
# Prefixes of MLX's messages for failures of the machine, which are not bugs.
_MACHINE_ERRORS = {
    "[write]": "a file could not be written: is the disk full?",
    "[ring] ": "the connection to another process was lost: see the error of that process",
}


def run(
    cli: click.Group,
    arguments: list[str],
    resume_hints: Mapping[str, str] | None = None,
    explain: Callable[[Exception], str | None] = lambda error: None,
) -> NoReturn:
    """Run a command line and exit: 0 when done, 2 for wrong usage, 1 for a failure.

    An error becomes one line on standard error; `--debug` among the `arguments` shows its traceback
    instead. `explain` returns the message for an application's errors, and None for all others. An
    error with an attribute `exit_code` exits with that code. SIGINT, SIGTERM and SIGHUP exit with
    128 + their number, and print the command's hint on how to resume.
    """
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, _interrupt)
        status = cli.main([each for each in arguments if each != "--debug"], standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ or error  # click raises Abort from KeyboardInterrupt
        number = getattr(cause, "signal_number", signal.SIGINT)
        details = "; ".join([signal.Signals(number).name, *filter(None, [str(cause)])])
        hint = (resume_hints or {}).get(arguments[0]) if arguments else None
        _print_error(f"Interrupted{f'; {hint}' if hint else ''}. ({details})")
        sys.exit(128 + number)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if "--debug" in arguments:
            raise
        message = explain(error) or _message(error)
        _print_error(f"Error: {' '.join(message.split())}")
        sys.exit(getattr(error, "exit_code", 1))


def _message(error: Exception) -> str:
    if isinstance(error, ImportError) and "libmlx" in str(error):
        return NO_BACKEND
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    # The message of a KeyError is only the key: a failed lookup is a bug.
    if isinstance(error, KeyError) and error.args and " " in str(error.args[0]):
        return str(error.args[0])
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return str(error)
    for start, message in _MACHINE_ERRORS.items():
        if str(error).startswith(start):
            return f"{message} ({error})"
    return f"{type(error).__name__}: {error} (this looks like a defect; --debug shows where)"


def _print_error(line: str) -> None:
    with contextlib.suppress(OSError):  # standard error may be closed
        click.echo(line, err=True)


def _interrupt(number: int, frame: object) -> NoReturn:
    error = KeyboardInterrupt()
    error.signal_number = number  # type: ignore[attr-defined]
    raise error


def settings_options(config: type) -> Callable[[Callable], Callable]:
    """Return a decorator that adds an option for every field of `config` that has a flag.

    The command gets one argument `flags`: the given flags as a dict from dotted keys to values, for
    `load_config`. With `cls=SettingsCommand` its help has a group for each section of `config`.
    """
    options = dict(_options(config, "", ""))

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            given = {key: values.pop(_argument(key)) for key in options}
            given = {key: value for key, value in given.items() if value not in (None, ())}
            flags = {k: dict(v) if v and _is_pairs(v) else v for k, v in given.items()}
            return function(flags=flags, **values)

        for key, (flag, attributes) in reversed(options.items()):
            click.option(flag, _argument(key), cls=SettingOption, **attributes)(command)
        return command

    return decorate


class SettingOption(click.Option):
    """An option made from a field; `group` is its heading in the help.

    The help shows its default, but click has none, so that only typed options count as given.
    """

    def __init__(self, *declarations: Any, group: str, default_text: str | None, **attributes: Any):
        super().__init__(*declarations, **attributes)
        self.group = group
        self.default_text = default_text

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return the text in brackets after the help."""
        extra = super().get_help_extra(ctx)
        return {"default": self.default_text, **extra} if self.default_text else extra


class SettingsCommand(click.Command):
    """A command whose help lists the options of settings by section, after all others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each group under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):  # arguments are in the usage
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class Finite(click.FloatRange):
    """A finite number in a range; `FloatRange` alone accepts NaN and infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fail with a usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class _RangeOrZero(click.IntRange):
    """An integer in a range, or 0."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return 0 if str(value).strip() == "0" else super().convert(value, param, ctx)


class _OnOff(click.Choice):
    """`on` or `off` as a bool."""

    def __init__(self) -> None:
        super().__init__(["on", "off"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx) == "on"


class _Parsed(click.ParamType):
    """Text that a function converts to a value, or refuses with `ValueError`."""

    def __init__(self, parse: Callable[[str], object], name: str = "text"):
        self.parse = parse
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _options(config: type, prefix: str, group: str) -> Iterator[tuple[str, tuple[str, dict]]]:
    """Yield the key of each field with a flag, the flag, and the attributes of its option."""
    kinds = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        key, kind = f"{prefix}{field.name}", kinds[field.name]
        if dataclasses.is_dataclass(kind):
            heading = group or field.name.capitalize().replace("_", " ")
            yield from _options(kind, f"{key}.", heading)  # type: ignore[arg-type]
        elif (about := setting_of(field)) and about.flag:
            attributes = _attributes(kind, field.default, about)
            shown = about.default_text or _default_text(field.default)
            attributes |= {"group": group or "Options", "default_text": shown, "help": about.help}
            yield key, (about.flag, attributes)


def _attributes(kind: Any, default: object, about: Setting) -> dict[str, Any]:
    """Return the option attributes with which click parses the annotation `kind`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    given: dict[str, Any] = {"default": None, "metavar": about.metavar}
    if about.complete:
        given["shell_complete"] = functools.partial(_completed, about)
    limits = about.range
    if about.parse:
        return given | {"type": _Parsed(about.parse)}
    if origin is dict:
        form = about.metavar or "KEY=VALUE"
        pair = _Parsed(functools.partial(_pair, form=form))
        return given | {"multiple": True, "metavar": form, "type": pair}
    if origin in (list, tuple):
        item = _attributes(arguments[0] if arguments else str, None, about)
        return item | {"multiple": True}
    if origin is typing.Literal:
        return given | {"type": click.Choice([str(each) for each in arguments])}
    if kind is bool:
        if default is True and "/" not in str(about.flag):
            return given | {"type": _OnOff()}
        return given | {"is_flag": True}
    if kind is int:
        least = limits.at_least if limits.above is None else limits.above + 1
        bounds = _whole(least), _whole(limits.at_most)
        return given | {"type": (_RangeOrZero if limits.or_zero else click.IntRange)(*bounds)}
    if kind is float:
        least = limits.at_least if limits.above is None else limits.above
        most = limits.at_most if limits.below is None else limits.below
        open_ends = {"min_open": limits.above is not None, "max_open": limits.below is not None}
        range_type = click.FloatRange if about.infinite else Finite
        return given | {"type": range_type(least, most, **open_ends)}
    if about.path:
        exists = click.Path(
            exists=True, file_okay=about.path != "folder", dir_okay=about.path != "file"
        )
        return given | {"type": exists}
    return given | {"type": str}


def _completed(
    about: Setting, context: click.Context, option: click.Parameter, incomplete: str
) -> list[str]:
    """Return the words of a setting that begin so; of several with commas, for the last one."""
    before, comma, last = incomplete.rpartition(",") if about.parse else ("", "", incomplete)
    words = about.complete() if about.complete else ()
    return [f"{before}{comma}{word}" for word in words if word.startswith(last)]


def _default_text(default: object) -> str | None:
    if default is True:
        return "on"
    if default is False or default == "" or not isinstance(default, str | int | float):
        return None
    return f"{default:g}" if isinstance(default, float) else str(default)


def _argument(key: str) -> str:
    return f"setting_{key.replace('.', '__')}"


def _whole(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


def _is_pairs(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, tuple) for each in value)


def _pair(text: str, form: str) -> tuple[str, str]:
    key, equals, value = text.rpartition("=")
    if not equals or not key:
        raise ValueError(f"{text!r} is not {form}")
    return key, value
