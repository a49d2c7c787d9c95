"""The candidate columns of a table, in the order in which they are tried."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlx_kaggle.generate.grades import Grade, find_grades
from mlx_kaggle.generate.groups import (
    FilledCategory,
    GroupMean,
    GroupSize,
    PerMember,
    group_keys,
)
from mlx_kaggle.generate.numbers import Combination, DatePart, find_combinations, find_date_parts
from mlx_kaggle.generate.parts import NAME_WORDS, Part, filled_texts, find_parts, is_category
from mlx_kaggle.generate.parts import text_columns as columns_with_text
from mlx_kaggle.generate.target_means import TargetMean, target_outputs
from mlx_tabtext import Schema, Table, numbers_of

Rowwise = Part | Grade | Combination | DatePart
Learned = GroupSize | PerMember | FilledCategory | GroupMean | TargetMean
Feature = Rowwise | Learned

# A column names groups if it has so many distinct values and so many rows share theirs.
MIN_GROUPS, GROUPS_PER_ROW, SHARED = 10, 0.05, 0.1
# A category gets target means from this many values on; trees group fewer by themselves.
MANY_CATEGORIES = 10
# More candidates of one idea are tried together: each alone gains less than the noise.
TOGETHER = 4
# Share of the groups with several rows in which a number or a category is the same.
CONSTANT, MAX_MEANS = 0.7, 6
# A category may be filled from groups if they agree in this share more often than chance.
AGREE = 0.1


@dataclass(frozen=True)
class Candidate:
    """Generated columns that are kept or left off together."""

    name: str
    features: tuple[Feature, ...]


@dataclass(frozen=True)
class Key:
    """A column, or a part of one, whose values name groups or categories."""

    name: str
    label: str
    groups: bool
    """Whether the groups are small, as tickets are; else it is a category of many values."""


def find_candidates(
    schema: Schema, table: Table, y: np.ndarray, task: str, seed: int
) -> tuple[list[Candidate], dict[str, Part], list[str]]:
    """Return the candidates, every part by name, and the columns that name groups."""
    parts = {
        column: [part for part in each if part.name not in table]
        for column, each in find_parts(schema, table).items()
    }
    by_name = {part.name: part for each in parts.values() for part in each}
    wide = {**table, **{name: part.transform(table) for name, part in by_name.items()}}
    keys = list(_keys(schema, wide, by_name))
    found = _bundle(
        "grades", [("of " + each.column, [each]) for each in find_grades(schema, table)]
    )
    ids = {column.name for column in schema.columns if column.kind in ("id", "ignored")}
    for column, each in parts.items():
        kept = [part for part in each if is_category(part, table)]
        if column in ids:  # its numbers count the rows
            kept = [part for part in kept if part.kind == "categorical"]
        if kept:
            found.append(Candidate(f"parts of {column}", tuple(kept)))
    found += [Candidate(name, tuple(each)) for name, each in find_combinations(schema, table)]
    found += [Candidate(f"{each.part} of {each.column}", (each,))
              for each in find_date_parts(schema, table)]  # fmt: skip
    for key in keys:
        if key.groups:
            found += _group_candidates(schema, wide, key)
    means = [(f"of {key.name}", _target_means(key, y, task, seed)) for key in keys]
    means = [each for each in means if each[1]]
    groups = {f"of {key.name}" for key in keys if key.groups}
    found += [Candidate(f"target mean {what}", tuple(each)) for what, each in means
              if what in groups]  # fmt: skip
    found += _bundle("target mean", [each for each in means if each[0] not in groups])
    return _distinct(found, schema), by_name, [key.name for key in keys if key.groups]


def _distinct(candidates: Sequence[Candidate], schema: Schema) -> list[Candidate]:
    """Drop columns whose name is taken, and use the name where the label is taken."""
    names = {column.name for column in schema.columns}
    labels = {column.label for column in schema.columns}
    found = []
    for candidate in candidates:
        features = []
        for feature in candidate.features:
            if feature.name not in names:
                if feature.label in labels:
                    feature = replace(feature, label=feature.name)
                names.add(feature.name)
                labels.add(feature.label)
                features.append(feature)
        if features:
            found.append(Candidate(candidate.name, tuple(features)))
    return found


def _bundle(idea: str, found: Sequence[tuple[str, Sequence[Feature]]]) -> list[Candidate]:
    """Return one candidate each, or one for all if there are many."""
    if len(found) <= TOGETHER:
        return [Candidate(f"{idea} {what}", tuple(each)) for what, each in found]
    together = tuple(feature for _, each in found for feature in each)
    return [Candidate(f"{idea} of {len(found)} columns", together)]


def _keys(schema: Schema, wide: Table, parts: dict[str, Part]) -> Iterator[Key]:
    names = {column.name: column.label for column in columns_with_text(schema)}
    names |= {
        name: part.label for name, part in parts.items() if part.rule not in ("items", "number")
    }
    seen = set()
    for name, label in names.items():
        keys = group_keys(wide, name)
        counts = Counter(key for key in keys if key is not None)
        pattern = tuple(keys) if len(counts) < 2 else _pattern(keys)
        if len(counts) < MIN_GROUPS or pattern in seen or _is_prose(wide, name):
            continue
        seen.add(pattern)
        shared = sum(count for count in counts.values() if count > 1)
        if len(counts) > GROUPS_PER_ROW * counts.total():
            if shared >= SHARED * counts.total():
                yield Key(name, label, groups=True)
        elif len(counts) > MANY_CATEGORIES:
            yield Key(name, label, groups=False)


def _pattern(keys: Sequence[str | None]) -> tuple[int, ...]:
    """Return a number for each group in order of appearance: equal for equal partitions."""
    numbers: dict[str | None, int] = {}
    return tuple(numbers.setdefault(key, len(numbers)) for key in keys)


def _is_prose(wide: Table, name: str) -> bool:
    texts = filled_texts(wide[name])
    return sum(len(text.split()) for text in texts) > NAME_WORDS * len(texts)


def _group_candidates(schema: Schema, wide: Table, key: Key) -> Iterator[Candidate]:
    size = GroupSize(f"others with same {key.name}", f"others with same {key.label}", key.name, {})
    yield Candidate(f"group size of {key.name}", (size,))
    keys = group_keys(wide, key.name)
    own = [n for n in numbers_of(schema) if n.part == "value" and n.name != key.name]
    own = [number for number in own if schema[number.name].kind == "numeric"]
    labels = {column.name: column.label for column in schema.columns}
    same = {number: _same_in_groups(keys, number.values(wide).tolist()) for number in own}
    for number, share in same.items():
        if share >= CONSTANT and len(np.unique(number.values(wide))) > MIN_GROUPS:
            what = f"{number.name} per row of {key.name}"
            label = f"{labels[number.name]} per {key.label}"
            yield Candidate(what, (PerMember(what, label, number, size),))
    for column in schema.features:
        if column.kind in ("categorical", "boolean") and _fills(
            keys, group_keys(wide, column.name)
        ):
            what = f"{column.name} filled by {key.name}"
            label = f"{column.label} filled by {key.label}"
            filled = FilledCategory(what, label, key.name, column.name, {})
            yield Candidate(what, (filled,))
    means = [
        GroupMean(f"{number.name} of others with same {key.name}",
                  f"{labels[number.name]} of others with same {key.label}", key.name, number, {})
        for number in own if same[number] < CONSTANT
    ]  # fmt: skip
    if means:
        yield Candidate(f"means in groups of {key.name}", tuple(means[:MAX_MEANS]))


def _same_in_groups(keys: Sequence[str | None], cells: Sequence) -> float:
    """Return the share of the groups of several rows in which all cells are the same."""
    groups: dict[str, list] = {}
    for key, cell in zip(keys, cells, strict=True):
        if key is not None and cell is not None and cell == cell:  # not NaN
            groups.setdefault(key, []).append(cell)
    several = [len(set(each)) == 1 for each in groups.values() if len(each) > 1]
    return sum(several) / max(len(several), 1)


def _fills(keys: Sequence[str | None], cells: Sequence[str | None]) -> bool:
    """Return whether cells are missing, some of them known from a group that agrees."""
    missing = [key for key, cell in zip(keys, cells, strict=True) if cell is None]
    counts = Counter(cell for cell in cells if cell is not None)
    if len(missing) < max(5, 0.005 * len(cells)) or len(counts) < 2:
        return False
    chance = sum((count / counts.total()) ** 2 for count in counts.values())
    known = {key for key, cell in zip(keys, cells, strict=True) if key and cell is not None}
    return _same_in_groups(keys, cells) > chance + AGREE and any(key in known for key in missing)


def _target_means(key: Key, y: np.ndarray, task: str, seed: int) -> list[TargetMean]:
    outputs = target_outputs(y, task)
    numbered = len(outputs) > 1
    return [
        TargetMean(
            f"target mean{f' {output}' if numbered else ''} of {key.name}",
            f"target mean{f' {output}' if numbered else ''} of {key.label}",
            key.name, output, seed, 0.0, {},
        )
        for output in outputs
    ]  # fmt: skip
