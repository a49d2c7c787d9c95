"""How a sample submission spells classes in its cells, and classes or targets in its columns."""

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile

from mlx_kaggle.tables.competition import as_number, normalize_label

# Equivalent pairs of labels; the first pair that contains a sample's cells is its spelling.
PAIRS = ("false true", "False True", "FALSE TRUE", "no yes", "No Yes", "NO YES", "n y", "N Y",
         "f t", "F T", "0 1", "0.0 1.0")  # fmt: skip


def find_spelling(values: set[str], classes: Sequence[str]) -> dict[str, str] | None:
    """Map classes to their spelling in a sample; `None` if some `values` are not classes."""
    for spell in _spellings(classes):
        spelled = {label: spell(label) for label in classes}
        if values <= set(spelled.values()) and len(set(spelled.values())) == len(classes):
            return spelled
    return None


def _spellings(classes: Sequence[str]) -> Iterator[Callable[[str], str]]:
    yield str
    if all(as_number(label) is not None for label in classes):
        yield lambda label: f"{float(label):.15g}"
        yield lambda label: f"{float(label):.1f}"
    yield from (str.upper, str.lower, str.capitalize, str.title)
    plain = [normalize_label(label) for label in classes]
    if any(sorted(plain) == sorted(map(normalize_label, pair.split())) for pair in PAIRS):
        first = {normalize_label(pair.split()[0]) for pair in PAIRS}
        for pair in PAIRS:
            no, yes = pair.split()
            yield lambda label, no=no, yes=yes: no if normalize_label(label) in first else yes


def match_columns(names: Sequence[str], classes: Sequence[str]) -> tuple[str, ...] | None:
    """Return the class of each column: its name without the prefix and suffix of all names.

    `None` unless each class has exactly one column.
    """
    if len(names) != len(classes) or len(set(names)) != len(names):
        return None
    prefix, suffix = _shared(names), _shared([name[::-1] for name in names])
    for spell in (str, normalize_label):
        spelled = {spell(label): label for label in classes}
        for start in range(prefix + 1):
            for stop in range(suffix + 1):
                cut = [spell(name[start : len(name) - stop]) for name in names]
                if len(spelled) == len(set(cut)) and set(cut) == set(spelled):
                    return tuple(spelled[each] for each in cut)
    return None


def _shared(names: Sequence[str]) -> int:
    """Return the length of the common prefix."""
    return sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False)))
