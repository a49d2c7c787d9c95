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
    """A part of a template up to a sentence end: text, then pairs of (column, text)."""

    start: str
    rest: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The distinct columns."""
        return tuple(dict.fromkeys(name for name, _ in self.rest))

    def fill(self, values: Mapping[str, Sequence[str | None]], row: int) -> str | None:
        """Return the sentence for a row; `None` if a value is missing."""
        text = self.start
        for name, literal in self.rest:
            value = values[name][row]
            if value is None:
                return None
            text += value + literal
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
    sentences: list[Sentence] = []
    start, rest = "", []
    for literal, name, spec, conversion in parts:
        first, *following = _SENTENCE_END.split(literal)
        start, rest = _append(start, rest, first)
        for text in following:
            _close(sentences, start, rest)
            start, rest = text, []
        if name is not None:
            _check_field(template, name, spec or conversion, schema)
            rest = [*rest, (name, "")]
    _close(sentences, start, rest)
    if not any(sentence.rest for sentence in sentences):
        raise TableError(f"template {template!r} names no column; write one as {{Age}}")
    return tuple(sentences)


def _append(
    start: str, rest: list[tuple[str, str]], literal: str
) -> tuple[str, list[tuple[str, str]]]:
    if not rest:
        return start + literal, rest
    name, before = rest[-1]
    return start, [*rest[:-1], (name, before + literal)]


def _close(sentences: list[Sentence], start: str, rest: list[tuple[str, str]]) -> None:
    if start.strip() or rest:
        sentences.append(Sentence(start, tuple(rest)))


def _check_field(template: str, name: str, extra: str | None, schema: Schema) -> None:
    features = [column.name for column in schema.features]
    if extra:
        raise TableError(
            f"template {template!r}: field {name!r} has {extra!r} after it; write "
            f"{{{name}}} alone, numbers are rounded by TextConfig(digits=...)"
        )
    if name not in features:
        kinds = {column.name: column.kind for column in schema.columns}
        if name in kinds:
            raise TableError(
                f"template {template!r}: column {name!r} is {kinds[name]}, not an input"
            )
        raise TableError(f"template {template!r}: no column {name!r}{did_you_mean(name, features)}")
