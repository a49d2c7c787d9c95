"""Fit generated columns on the training rows, keep those that help, and apply them to new rows."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mlx_kaggle.generate.candidates import Candidate, Feature, Learned, find_candidates
from mlx_kaggle.generate.grades import Grade
from mlx_kaggle.generate.groups import FilledCategory, GroupMean, GroupSize, PerMember, group_keys
from mlx_kaggle.generate.measure import Trial
from mlx_kaggle.generate.numbers import Combination, DatePart
from mlx_kaggle.generate.parts import Part
from mlx_kaggle.generate.target_means import TargetMean
from mlx_kaggle.tables.dependence import Dependence
from mlx_kaggle.tables.files import row_count
from mlx_tabtext import Column, Number, Schema, Table

MAX_CANDIDATES = 100
# Fewer rows cannot tell a gain from noise.
MIN_ROWS = 50
# Groups of new rows are those of the training rows if they occur at least this often as often.
KNOWN = 0.5
_TYPES: dict[str, Any] = {
    each.__name__: each
    for each in (Part, Grade, Combination, DatePart, GroupSize, PerMember, FilledCategory,
                 GroupMean, TargetMean)
}  # fmt: skip


@dataclass(frozen=True)
class Gain:
    """What one group of generated columns brought, measured inside the training rows."""

    name: str
    columns: tuple[str, ...]
    gain: float
    """Relative decrease of the log loss or squared error by inner cross-validation."""
    kept: bool


@dataclass(frozen=True)
class Generated:
    """The generated columns of a table, fitted on its training rows."""

    schema: Schema
    """The original schema with the generated columns appended."""
    gains: tuple[Gain, ...]
    """Of each candidate in the order of trial; a gain is that over what was kept before it."""
    features: tuple[Feature, ...] = ()
    parts: tuple[Part, ...] = ()
    """Parts that name the groups of `features`."""
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        schema: Schema,
        train: Table,
        y: np.ndarray,
        task: str,
        seed: int,
        measure: bool = True,
        new: Table | None = None,
        dependence: Dependence | None = None,
    ) -> tuple["Generated", Table]:
        """Return the fitted columns, and the training rows extended by them.

        `y` holds class numbers (N,), labels (N, L) of 0 and 1, or scaled values (N,) or (N, T). In
        the extended training table, what is known of a group comes from other rows only. Without
        `measure`, every candidate is kept. `new` are rows to predict, without targets: a group
        that its rows rarely share with the training rows is not used, because its gain inside the
        training rows would not hold. With a `dependence` of the training rows gains are measured on
        other groups, or later rows, and target means come from these or from earlier rows.
        """
        if task == "forecast":
            return cls(schema, (), notes=("no columns are generated for windows",)), dict(train)
        candidates, parts, groups = find_candidates(schema, train, y, task, seed)
        wide = _widen(train, parts.values())
        notes: list[str] = []
        if new is not None:
            candidates = _drop_unshared(candidates, groups, parts, wide, new, notes)
        if len(candidates) > MAX_CANDIDATES:
            left = len(candidates) - MAX_CANDIDATES
            notes.append(f"{left} of {len(candidates)} groups of columns were not tried")
            candidates = candidates[:MAX_CANDIDATES]
        if measure and row_count(train) < MIN_ROWS:
            notes.append(f"no columns are generated from fewer than {MIN_ROWS} rows")
            candidates = []
        trial = None
        if measure and candidates:
            trial = Trial.start(schema, wide, y, task, seed, dependence)
        gains = list(_measure(candidates, trial))
        kept = [each for each, gain in zip(candidates, gains, strict=True) if gain.kept]
        features = _fit_features(kept, schema, wide, y)
        needed = {each.column for each in features if isinstance(each, Learned)}
        used = tuple(part for name, part in parts.items() if name in needed)
        extended = dict(train)
        for feature in features:
            learned = isinstance(feature, Learned)
            arguments = wide, y, dependence
            extended[feature.name] = (
                feature.transform_training(*arguments) if learned else feature.transform(train)
            )
        return cls(_extend(schema, features), tuple(gains), features, used, tuple(notes)), extended

    def transform(self, table: Table) -> Table:
        """Return new rows extended by the generated columns; each row depends on itself alone."""
        wide = _widen(table, self.parts)
        return {**table, **{each.name: each.transform(wide) for each in self.features}}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return {
            "schema": self.schema.to_dict(),
            "gains": [asdict(gain) for gain in self.gains],
            "features": [_feature_to_dict(each) for each in self.features],
            "parts": [_feature_to_dict(each) for each in self.parts],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Generated":
        """Rebuild from `to_dict`, also after JSON."""
        gains = [Gain(**{**each, "columns": tuple(each["columns"])}) for each in values["gains"]]
        features, parts = (
            tuple(map(_feature_from_dict, values[name])) for name in ("features", "parts")
        )
        schema = Schema.from_dict(values["schema"])
        return cls(schema, tuple(gains), features, parts, tuple(values["notes"]))


def expected_seconds(schema: Schema, train: Table, y: np.ndarray, task: str, seed: int) -> float:
    """Return about how long a measured `Generated.fit` takes, from the score of no column."""
    if row_count(train) < MIN_ROWS:
        return 0.0
    started = time.monotonic()
    candidates, parts, _ = find_candidates(schema, train, y, task, seed)
    wide = _widen(train, parts.values())
    found = time.monotonic()
    Trial.start(schema, wide, y, task, seed)
    scored = time.monotonic()
    return found - started + (scored - found) * (1 + min(len(candidates), MAX_CANDIDATES))


def _widen(table: Table, parts: Iterable[Part]) -> Table:
    return {**table, **{part.name: part.transform(table) for part in parts}}


def _measure(candidates: list[Candidate], trial: Trial | None) -> Iterable[Gain]:
    for candidate in candidates:
        gain, kept = trial.gain(candidate) if trial else (0.0, True)
        yield Gain(candidate.name, tuple(each.name for each in candidate.features), gain, kept)


def _fit_features(
    kept: list[Candidate], schema: Schema, wide: Table, y: np.ndarray
) -> tuple[Feature, ...]:
    features = [feature for candidate in kept for feature in candidate.features]
    return tuple(each.fit(wide, y) if isinstance(each, Learned) else each for each in features)


def _drop_unshared(
    candidates: list[Candidate],
    groups: list[str],
    parts: dict[str, Part],
    wide: Table,
    new: Table,
    notes: list[str],
) -> list[Candidate]:
    """Leave out what is known of groups that new rows rarely share with the training rows."""
    new_wide, dropped = _widen(new, parts.values()), set()
    for name in groups:
        keys = [key for key in group_keys(wide, name) if key is not None]
        counts = Counter(keys)
        expected = np.mean([counts[key] > 1 for key in keys])
        found = [key in counts for key in group_keys(new_wide, name) if key is not None]
        if not found or np.mean(found) < KNOWN * expected:
            dropped.add(name)
            notes.append(f"groups of {name} are not used: new rows rarely share one with old rows")
    return [
        each
        for each in candidates
        if not any(isinstance(f, Learned) and f.column in dropped for f in each.features)
    ]


def _extend(schema: Schema, features: tuple[Feature, ...]) -> Schema:
    columns = [
        Column(each.name, each.kind, each.label, f"generated: {each.label}")  # type: ignore[arg-type]
        for each in features
    ]
    return replace(schema, columns=(*schema.columns, *columns))


def _feature_to_dict(feature: Feature) -> dict[str, Any]:
    return {"type": type(feature).__name__, **asdict(feature)}


def _feature_from_dict(values: Mapping[str, Any]) -> Any:
    values = dict(values)
    kind = _TYPES[values.pop("type")]
    if "number" in values:
        values["number"] = Number(**values["number"])
    if "numbers" in values:
        values["numbers"] = tuple(Number(**each) for each in values["numbers"])
    if "size" in values:
        values["size"] = GroupSize(**values["size"])
    if "sums" in values:
        values["sums"] = {key: tuple(each) for key, each in values["sums"].items()}
    return kind(**values)
