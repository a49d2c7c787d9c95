"""Parts of structured strings: tokens of codes, leading letters, titles, family names."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlx_kaggle.tables.files import row_count
from mlx_tabtext import Column, Schema, Table, is_missing

Rule = Literal["token", "letters", "number", "items", "title", "family", "first", "last"]
WHAT = {
    "letters": "letters",
    "number": "number",
    "items": "items",
    "title": "title",
    "family": "before comma",
    "first": "first word",
    "last": "last word",
}
# Trees already split a category of fewer values as they like.
MIN_DISTINCT = 20
# A part with more values is not a category, but it may name groups.
MAX_CATEGORIES = 100
# Share of the cells that must follow a rule; codes of several layouts have a few frequent ones.
FOLLOW, LAYOUTS = 0.9, 8
MAX_LENGTH, CODE_WORDS, NAME_WORDS = 60, 4, 8
_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_TITLE = re.compile(r"\b([^\W\d_]+)\.")
_ITEMS = re.compile(r"[\s,;|]+")


@dataclass(frozen=True)
class Part:
    """One part of each cell of a column; it depends on this cell only.

    "token": the token at `position` of cells with this `layout`, for example "LDL" of `B-204-N`
    (letters, digits, letters). "letters": the leading letters; "number": the last digits; "items":
    the count of items; "title": the first word with a point; "family": the text before the comma.
    """

    name: str
    label: str
    kind: Literal["numeric", "categorical"]
    column: str
    rule: Rule
    layout: str = ""
    position: int = 0

    def transform(self, table: Table) -> list[Any]:
        """Return text or numbers; `None` if the cell is missing or has no such part."""
        cells = table.get(self.column) or [None] * row_count(table)
        return [None if is_missing(cell) else self._of(str(cell).strip()) for cell in cells]

    def _of(self, text: str) -> str | float | None:
        found = _FIND[self.rule](text) if self.rule != "token" else self._token(text)
        return _number(found) if self.kind == "numeric" else found

    def _token(self, text: str) -> str | None:
        tokens = _TOKEN.findall(text)
        return tokens[self.position] if layout_of(tokens) == self.layout else None


def find_parts(schema: Schema, table: Table) -> dict[str, list[Part]]:
    """Return the parts of each column that has some, those that only name groups included.

    Columns are categories, texts, the id, and further ids. Other ignored columns are not read:
    they are constant, dropped by the user, copies of another column, or unknown when predicting.
    """
    found = {}
    for column in text_columns(schema):
        texts = filled_texts(table[column.name])
        if len(set(texts)) > MIN_DISTINCT:
            rules = list(_rules(texts))
            parts = [_part(column, *rule) for rule in rules]
            parts = [part for part in parts if _varies(part, table)]
            if parts:
                found[column.name] = parts
    return found


def text_columns(schema: Schema) -> list[Column]:
    """Return the columns that may hold structured strings."""
    return [
        column
        for column in schema.columns
        if column.kind in ("categorical", "text", "id")
        or (column.kind == "ignored" and column.reason.endswith("but not the id"))
    ]


def filled_texts(cells: Sequence[Any]) -> list[str]:
    """Return the cells that are not missing, as stripped text."""
    return [str(cell).strip() for cell in cells if not is_missing(cell)]


def layout_of(tokens: Sequence[str]) -> str:
    """Return "LDL" for letters, digits, letters."""
    return "".join("D" if token[0].isdigit() else "L" for token in tokens)


def is_category(part: Part, table: Table) -> bool:
    """Return whether the values of a part are few enough for a column of their own."""
    if part.kind == "numeric":
        return True
    values = {cell for cell in part.transform(table) if cell is not None}
    return len(values) <= min(MAX_CATEGORIES, row_count(table) // 5)


def _rules(texts: list[str]) -> Iterator[tuple[Rule, str, int, bool]]:
    """Yield (rule, layout, position, whether numeric)."""
    words = sum(len(text.split()) for text in texts) / len(texts)
    digits = _share(any(map(str.isdigit, text)) for text in texts)
    if max(map(len, texts)) <= MAX_LENGTH and words <= CODE_WORDS and digits > 0.5:
        yield from _code_rules(texts)
    elif words <= NAME_WORDS and digits < 1 - FOLLOW:
        yield from _name_rules(texts)


def _code_rules(texts: list[str]) -> Iterator[tuple[Rule, str, int, bool]]:
    layouts = Counter(layout_of(_TOKEN.findall(text)) for text in texts).most_common(LAYOUTS)
    (first, count), *_ = layouts
    if count >= FOLLOW * len(texts):
        if len(first) > 1:
            for position, kind in enumerate(first):
                yield "token", first, position, kind == "D"
    elif sum(n for _, n in layouts) >= FOLLOW * len(texts):  # not random strings
        yield "letters", "", 0, False
        yield "number", "", 0, True
        if any(_items(text) not in (None, "1") for text in texts):
            yield "items", "", 0, True


def _name_rules(texts: list[str]) -> Iterator[tuple[Rule, str, int, bool]]:
    if _share(text.count(",") == 1 for text in texts) >= FOLLOW:
        yield "family", "", 0, False
    elif _share(2 <= len(text.split()) <= 4 for text in texts) >= FOLLOW:
        for rule in ("first", "last"):
            yield rule, "", 0, False
    titles = [found for text in texts if (found := _title(text))]
    if len(titles) >= FOLLOW * len(texts) and len(set(titles)) <= len(texts) / 10:
        yield "title", "", 0, False


def _part(column: Column, rule: Rule, layout: str, position: int, numeric: bool) -> Part:
    what = f"part {position + 1}" if rule == "token" else WHAT[rule]
    kind = "numeric" if numeric else "categorical"
    name, label = f"{column.name} {what}", f"{column.label} {what}"
    return Part(name, label, kind, column.name, rule, layout, position)


def _varies(part: Part, table: Table) -> bool:
    """Return whether a part has several values, and repeats any of them."""
    values = Counter(cell for cell in part.transform(table) if cell is not None)
    return len(values) > 1 and (part.kind == "numeric" or len(values) < values.total())


def _share(claims: Iterator[bool]) -> float:
    values = list(claims)
    return sum(values) / max(len(values), 1)


def _number(text: str | None) -> float | None:
    # Digits beyond the 15 that a float holds are an identifier.
    return float(text) if text and len(text) <= 15 and text.isascii() else None


def _letters(text: str) -> str:
    tokens = _TOKEN.findall(text)
    return tokens[0].upper() if tokens and not tokens[0][0].isdigit() else "-"


def _last_number(text: str) -> str | None:
    return next((token for token in reversed(_TOKEN.findall(text)) if token[0].isdigit()), None)


def _items(text: str) -> str | None:
    """Count the items with digits: 2 in `C85 C87`, 1 in `PC 17599`."""
    return str(sum(any(map(str.isdigit, item)) for item in _ITEMS.split(text)) or 1)


def _title(text: str) -> str | None:
    found = _TITLE.search(text)
    return found[1] if found else None


def _family(text: str) -> str | None:
    return text.partition(",")[0].strip() if "," in text else None


_FIND = {
    "letters": _letters,
    "number": _last_number,
    "items": _items,
    "title": _title,
    "family": _family,
    "first": lambda text: text.split()[0],
    "last": lambda text: text.split()[-1],
}
