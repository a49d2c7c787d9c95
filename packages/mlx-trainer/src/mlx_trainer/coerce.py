"""Convert plain values to the types that dataclass fields declare, with exact errors."""

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path

import yaml

from mlx_trainer._suggest import did_you_mean
from mlx_trainer.settings import range_problem, setting_of


class Mismatch(Exception):
    """A value does not fit its field: the dotted key, and the problem."""

    def __init__(self, path: str, problem: str):
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class CliText(str):
    """Text of an override, to be parsed by the type of its field."""


def build(cls: type, values: Mapping, path: str):
    """Return the dataclass `cls` from a mapping, every value coerced; raises `Mismatch`."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise Mismatch(_join(path, key), f"unknown key{did_you_mean(str(key), fields)}")
    arguments = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _field_value(field, hints[name], values[name], _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise Mismatch(_join(path, name), "required, but not given")
    try:
        return cls(**arguments)
    except ValueError as error:  # of the dataclass's own __post_init__
        name, _, problem = str(error).partition(" ")
        if name in fields:
            raise Mismatch(_join(path, name), problem) from error
        raise Mismatch(path, str(error)) from error


def mismatches(cls: type, values: Mapping, path: str = "") -> list[Mismatch]:
    """Return every problem for which `build` would raise, one by one.

    What a `__post_init__` refuses is found where each field of the dataclass is valid.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    found: list[Mismatch] = []
    for key, value in values.items():
        where, kind = _join(path, key), hints.get(key)
        if key not in fields:
            found.append(Mismatch(where, f"unknown key{did_you_mean(str(key), fields)}"))
        elif (
            isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping)
        ):
            found += mismatches(kind, value, where)
        else:
            try:
                _field_value(fields[key], kind, value, where)
            except Mismatch as mismatch:
                found.append(mismatch)
    if not found:
        try:
            build(cls, values, path)
        except Mismatch as mismatch:
            found.append(mismatch)
    return found


def _field_value(field: dataclasses.Field, kind: object, value: object, path: str):
    """Return the value of one field, in its range and allowed by its check."""
    about = setting_of(field)
    result = coerce(kind, value, path, not (about and about.infinite))
    if about and (problem := range_problem(result, about)):
        raise Mismatch(path, problem)
    if about and about.check:
        try:
            about.check(result)
        except ValueError as error:
            name, _, problem = str(error).partition(" ")
            raise Mismatch(path, problem if name == field.name else str(error)) from error
    return result


def coerce(kind: object, value: object, path: str, finite: bool = True):
    """Return `value` converted to the annotation `kind`; raises `Mismatch`.

    `finite` refuses infinite numbers; NaN is always refused.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, value, path, finite)
    if origin is typing.Literal:
        return _literal(arguments, value, path)
    if kind is str or kind is Path:
        if not isinstance(value, str | Path):
            raise Mismatch(path, f"must be text, got {_show(value)}; quote it")
        return kind(value)
    if isinstance(value, CliText):
        value = _parse(value, path)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value
        return build(kind, _expect(Mapping, value, path, "keys and values"), path)
    if origin is tuple or kind is tuple:
        return _tuple(arguments, value, path)
    if origin is list or kind is list:
        item = arguments[0] if arguments else object
        values = _expect(list | tuple, value, path, "a list")
        return [coerce(item, each, f"{path}[{i}]") for i, each in enumerate(values)]
    if origin is dict or kind is dict:
        item = arguments[1] if arguments else object
        values = _expect(Mapping, value, path, "keys and values")
        return {str(key): coerce(item, each, _join(path, key)) for key, each in values.items()}
    return _scalar(kind, value, path, finite)


def _scalar(kind: object, value: object, path: str, finite: bool):
    if kind is bool:
        return _expect(bool, value, path, "true or false")
    if kind is int:
        if isinstance(value, bool):
            raise Mismatch(path, f"must be a whole number, got {_show(value)}")
        return _expect(int, value, path, "a whole number")
    if kind is float:
        # YAML 1.1 reads 1e-4, without a dot, as text.
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            with contextlib.suppress(ValueError, OverflowError):
                return _checked(float(value), path, finite)
        raise Mismatch(path, f"must be a number, got {_show(value)}")
    if kind is type(None) or kind is None:
        if value is not None:
            raise Mismatch(path, f"must be null, got {_show(value)}")
        return None
    if kind is object or kind is typing.Any:
        return value
    raise TypeError(f"{path}: a configuration field cannot have the type {kind}")


def _checked(number: float, path: str, finite: bool) -> float:
    if math.isnan(number) or (finite and math.isinf(number)):
        raise Mismatch(path, f"must be a {'finite ' if finite else ''}number, got {number}")
    return number


def _union(kinds: tuple, value: object, path: str, finite: bool):
    # null first, so that the override "null" of a `str | None` is not taken as text.
    kinds = tuple(sorted(kinds, key=lambda kind: kind is not type(None)))
    problems = []
    for kind in kinds:
        try:
            return coerce(kind, value, path, finite)
        except Mismatch as mismatch:
            if mismatch.path != path:  # a nested key: the kind was right
                raise
            problems.append(mismatch.problem.split(", got ")[0].removeprefix("must be "))
    raise Mismatch(path, f"must be {' or '.join(problems)}, got {_show(value)}")


def _literal(options: tuple, value: object, path: str):
    for option in options:
        if type(option) is type(value) and option == value:
            return option
        if isinstance(value, CliText) and str(option) == value:
            return option
    names = [str(option) for option in options]
    suggestion = did_you_mean(str(value), names)
    valid = "" if suggestion.startswith("; valid") else f"; valid: {', '.join(names)}"
    raise Mismatch(path, f"unknown value {_show(value)}{suggestion}{valid}")


def _tuple(kinds: tuple, value: object, path: str):
    values = _expect(list | tuple, value, path, "a list")
    if not kinds or kinds[-1] is Ellipsis:
        kinds = (kinds[0] if kinds else object,) * len(values)
    if len(kinds) != len(values):
        raise Mismatch(path, f"must be a list of {len(kinds)}, got {_show(value)}")
    return tuple(
        coerce(kind, each, f"{path}[{i}]")
        for i, (kind, each) in enumerate(zip(kinds, values, strict=True))
    )


def _expect(kind, value, path: str, description: str) -> typing.Any:
    if not isinstance(value, kind):
        raise Mismatch(path, f"must be {description}, got {_show(value)}")
    return value


def _parse(text: str, path: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Mismatch(path, f"not YAML: {text!r}") from error


def _show(value: object) -> str:
    return repr(str(value)) if isinstance(value, str) else repr(value)


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
