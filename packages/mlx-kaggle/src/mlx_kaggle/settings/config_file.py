"""A YAML file with every setting of a run, each with its meaning and range as a comment."""

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from mlx_kaggle.settings.config import RunConfig
from mlx_trainer import dump_config
from mlx_trainer.settings import Range, Setting, setting_of

WIDTH = 96


def commented(config: RunConfig, preset: str) -> str:
    """Return YAML text with a comment above each setting; it loads back to `config`.

    A setting without a value, which is inferred or given on the command line, stays a comment.
    """
    values = yaml.safe_load(dump_config(config))
    head = f"# Settings of mlx-kaggle; those of the preset {preset} have its values."
    return "\n".join([head, "", *_section(RunConfig, values, "")]) + "\n"


def annotated(text: str, origins: Mapping[str, str]) -> str:
    """Return YAML text with the origin of each setting, by dotted key, as a comment behind it."""
    lines = text.splitlines()
    for key, line in _value_lines(yaml.compose(text, Loader=yaml.SafeLoader), ""):
        if key in origins:
            lines[line] += f"  # {origins[key]}"
    return "\n".join(lines) + "\n"


def _value_lines(node: Any, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield each dotted key, and the line that a comment fits on: the last one of a text."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        is_text = isinstance(value, yaml.ScalarNode)
        yield name, value.end_mark.line if is_text else key.start_mark.line
        if isinstance(value, yaml.MappingNode):
            yield from _value_lines(value, f"{name}.")


def _section(kind: type, values: dict[str, Any], indent: str) -> Iterator[str]:
    hints = get_type_hints(kind)
    for each in dataclasses.fields(kind):
        value = values[each.name]
        if dataclasses.is_dataclass(hints[each.name]):
            yield f"\n{indent}# {(hints[each.name].__doc__ or '').strip().splitlines()[0]}"
            lines = [*_section(hints[each.name], value, indent + "  ")]  # type: ignore[arg-type]
            empty = all(line.lstrip().startswith("#") for line in lines)
            yield f"{indent}{'# ' * empty}{each.name}:"
            yield from lines
            continue
        if about := setting_of(each):
            yield from _comment(_meaning(about, hints[each.name]), indent)
        text = yaml.safe_dump({each.name: value}, allow_unicode=True, default_flow_style=False)
        mark = "# " if value in (None, [], {}, "") else ""
        yield from (f"{indent}{mark}{line}" for line in text.rstrip().splitlines())


def _meaning(about: Setting, kind: Any) -> str:
    """Return help, choices and range in one line."""
    notes = [about.help]
    choices = next((get_args(each) for each in (kind, *get_args(kind))
                    if str(get_origin(each)) == "typing.Literal"), ())  # fmt: skip
    if choices:
        notes.append(f"One of {', '.join(map(str, choices))}.")
    if about.range != Range():
        notes.append(f"{str(about.range).capitalize()}.")
    if about.default_text:
        notes.append(f"By default: {about.default_text}.")
    return " ".join(notes)


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ",
                         subsequent_indent=f"{indent}# ", break_long_words=False)  # fmt: skip
