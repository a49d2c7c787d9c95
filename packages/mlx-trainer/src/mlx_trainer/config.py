"""Strict configuration: nested dataclasses filled from a mapping, a YAML file and overrides."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import yaml

from mlx_trainer.coerce import CliText, Mismatch, build, mismatches
from mlx_trainer.settings import ConfigError

T = TypeVar("T")


def load_config(
    cls: type[T],
    base: Mapping[str, object] | None = None,
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    flags: Mapping[str, object] | None = None,
) -> T:
    """Return the dataclass `cls` filled from defaults, `base`, `file`, `flags` and `overrides`.

    Later sources win key by key; nested mappings are merged. `flags` are values by dotted key. An
    override is `dotted.key=value`, its value read as YAML unless the field is text. Fields may be
    bool, int, float, str, Path, Literal, unions, tuples, lists, `dict[str, X]` and dataclasses.
    Numbers must be finite and in the range declared by `setting`. Every problem is a `ConfigError`
    that names the dotted key and the source of its value, with the line in a file. A `ValueError`
    of a `__post_init__` or of a `check` is reported in the same way if its message begins with the
    field's name.
    """
    values, origins, repeated = _gather(base, file, overrides, flags)
    if repeated:
        raise ConfigError(repeated[0])
    try:
        return build(cls, values, "")
    except Mismatch as mismatch:
        raise ConfigError(_describe(mismatch, cls, origins)) from None


def config_problems(
    cls: type, base: Mapping[str, object] | None = None, file: str | Path | None = None
) -> list[str]:
    """Return every problem for which `load_config` would raise, one by one, sorted by line.

    What depends on several fields is found once each field beside them is valid.
    """
    try:
        values, origins, repeated = _gather(base, file)
    except ConfigError as error:
        return [str(error)]
    found = repeated + [_describe(each, cls, origins) for each in mismatches(cls, values)]
    return sorted(found, key=lambda text: _line(text, file))


def _line(text: str, file: str | Path | None) -> int:
    """Return the line that an error of a file names, 0 if it is of no file."""
    place, _, rest = text.partition(f"{file}:")
    return 0 if place or not rest else int(rest.partition(":")[0])


def config_sources(
    base: Mapping[str, object] | None = None,
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    flags: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """Return the source of each dotted key that one gives, as in the errors of `load_config`.

    "base", "FILE:LINE", "command line" or "override 'KEY=VALUE'"; of sections the last one.
    """
    return _gather(base, file, overrides, flags)[1]


def dump_config(config: object) -> str:
    """Return a configuration as YAML text from which `load_config` makes an equal one."""
    plain = _plain(config)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    if yaml.safe_load(text) != plain:
        # PyYAML reads some characters that it writes, such as U+0085, as blanks.
        text = yaml.safe_dump(plain, sort_keys=False)
    return text


def _gather(
    base: Mapping[str, object] | None,
    file: str | Path | None,
    overrides: Iterable[str] = (),
    flags: Mapping[str, object] | None = None,
) -> tuple[dict[str, object], dict[str, str], list[str]]:
    """Return the merged values, the source of each dotted key, and what the file gives twice."""
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    repeated: list[str] = []
    if base is not None:
        _merge(values, base, "", origins, lambda path: "base")
    if file is not None:
        content, lines, repeated = _read(Path(file))
        _merge(values, content, "", origins, lambda path: f"{file}:{lines[path]}")
    for key, value in (flags or {}).items():
        _merge(values, _nest(key, value), "", origins, lambda path: "command line")
    for override in overrides:
        key, text = _split(override)
        tree = _nest(key, CliText(text))
        _merge(values, tree, "", origins, lambda path, o=override: f"override {o!r}")
    return values, origins, repeated


def _describe(mismatch: Mismatch, cls: type, origins: Mapping[str, str]) -> str:
    is_missing = mismatch.problem.startswith("required")  # so no source gave it
    where = "" if is_missing else _origin(mismatch.path, origins)
    return f"{where}{mismatch.path or cls.__name__}: {mismatch.problem}"


def _merge(target: dict, source: Mapping, prefix: str, origins: dict[str, str], origin) -> None:
    for key, value in source.items():
        path = f"{prefix}{key}"
        origins[path] = origin(path)
        if isinstance(value, Mapping):
            below = target.get(key)
            target[key] = below if isinstance(below, dict) else {}
            _merge(target[key], value, f"{path}.", origins, origin)
        else:
            target[key] = value


def _read(path: Path) -> tuple[dict, dict[str, int], list[str]]:
    """Return a YAML file's mapping, the line of each dotted key, and an error for each repeated."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if root is None:
        return {}, {}, []
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: must contain keys and values, got {type(content).__name__}")
    lines: dict[str, int] = {}
    repeated = []
    for key, line in _key_lines(root, ""):
        if key in lines:
            repeated.append(f"{path}:{line}: {key}: given twice, first on line {lines[key]}")
        lines.setdefault(key, line)
    return content, lines, repeated


def _key_lines(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, int]]:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        yield path, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _key_lines(value, f"{path}.")


def _split(override: str) -> tuple[str, str]:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r}: must be dotted.key=value")
    return key.strip(), value.strip()


def _nest(key: str, value: object) -> dict[str, object]:
    tree = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree  # type: ignore[return-value]


def _origin(path: str, origins: Mapping[str, str]) -> str:
    """Return "source: " for a key, or for its nearest parent that a source sets."""
    while path:
        if path in origins:
            return f"{origins[path]}: "
        path = path.rpartition(".")[0]
    return ""


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
