"""Templates: `{Name} was {Age} years old. Paid {Fare}.`"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from mlx_tabtext._suggest import did_you_mean
from mlx_tabtext.schema import Schema
from mlx_tabtext.table import TableError

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n")


@dataclass(frozen=True)
class Sentence:
    """A part of a template up to a sentence end: pairs of literal text and the column after it."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The distinct columns."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    def fill(self, values: Mapping[str, Sequence[str | None]], row: int) -> str | None:
        """Return the sentence for a row; `None` if a value is missing."""
        text = ""
        for literal, name in self.parts:
            value = "" if name is None else values[name][row]
            if value is None:
                return None
            text += literal + value
        return text


def parse_template(template: str, schema: Schema) -> tuple[Sentence, ...]:
    """Split a template into its sentences and check its columns against the schema.

    A sentence ends at `.`, `!`, `?` or `;` before white space, and at a line break. A missing
    value or the token budget drops whole sentences. `{{` and `}}` are braces. Raises `TableError`
    for unknown, target, id and ignored columns and for invalid syntax.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise TableError(
            f"template {template!r}: {error}; write a column as {{Age}} and a brace as {{{{"
        ) from None
    sentences: list[list[tuple[str, str | None]]] = [[]]
    for literal, name, spec, conversion in parts:
        *ends, last = _SENTENCE_END.split(literal)
        for text in ends:
            sentences[-1].append((text, None))
            sentences.append([])
        if name is not None:
            _check_field(template, name, spec or conversion, schema)
        sentences[-1].append((last, name))
    found = [Sentence(tuple(each)) for each in sentences]
    if not any(sentence.names for sentence in found):
        raise TableError(f"template {template!r} names no column; write one as {{Age}}")
    return tuple(
        each for each in found if each.names or any(text.strip() for text, _ in each.parts)
    )


def _check_field(template: str, name: str, extra: str | None, schema: Schema) -> None:
    features = [column.name for column in schema.features]
    if extra:
        raise TableError(
            f"template {template!r}: field {name!r} is followed by {extra!r}; write "
            f"{{{name}}} alone, numbers are rounded by TextConfig(digits=...)"
        )
    if name not in features:
        kinds = {column.name: column.kind for column in schema.columns}
        if name in kinds:
            raise TableError(
                f"template {template!r}: column {name!r} is {kinds[name]}, not an input"
            )
        raise TableError(f"template {template!r}: no column {name!r}{did_you_mean(name, features)}")
