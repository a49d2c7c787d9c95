"""Strict configuration: nested dataclasses filled from a mapping, a YAML file and overrides."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import yaml

from mlx_trainer.coerce import CliText, Mismatch, build
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
    of a `__post_init__` is reported in the same way if its message begins with the field's name.
    """
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    if base is not None:
        _merge(values, base, "", origins, lambda path: "base")
    if file is not None:
        content, lines = _read(Path(file))
        _merge(values, content, "", origins, lambda path: f"{file}:{lines[path]}")
    for key, value in (flags or {}).items():
        _merge(values, _nest(key, value), "", origins, lambda path: "command line")
    for override in overrides:
        key, text = _split(override)
        tree = _nest(key, CliText(text))
        _merge(values, tree, "", origins, lambda path, o=override: f"override {o!r}")
    try:
        return build(cls, values, "")
    except Mismatch as mismatch:
        is_missing = mismatch.problem.startswith("required")  # so no source gave it
        where = "" if is_missing else _origin(mismatch.path, origins)
        raise ConfigError(f"{where}{mismatch.path or cls.__name__}: {mismatch.problem}") from None


def dump_config(config: object) -> str:
    """Return a configuration as YAML text from which `load_config` makes an equal one."""
    plain = _plain(config)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    if yaml.safe_load(text) != plain:
        # PyYAML reads some characters that it writes, such as U+0085, as blanks.
        text = yaml.safe_dump(plain, sort_keys=False)
    return text


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


def _read(path: Path) -> tuple[dict, dict[str, int]]:
    """Return a YAML file's mapping and the line of each dotted key."""
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
        return {}, {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: must contain keys and values, got {type(content).__name__}")
    lines: dict[str, int] = {}
    for key, line in _key_lines(root, ""):
        if key in lines:
            raise ConfigError(f"{path}:{line}: {key}: given twice, first on line {lines[key]}")
        lines[key] = line
    return content, lines


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


def _origin(path: str, origins: dict[str, str]) -> str:
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
