"""Variants of members, such as `trees+pseudo`: the same member, trained on more rows.

A variant is trained on the folds of its member, and takes its place only if it clearly lowers the
loss; see `variant_choice`.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from mlx_kaggle.members.columns import Columns
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.settings.sections import TextSettings
from mlx_kaggle.settings.variant_settings import VariantSettings
from mlx_kaggle.tables.competition import Competition
from mlx_tabtext import Table

PSEUDO, AUGMENT = "pseudo", "augment"
VARIANTS = (PSEUDO, AUGMENT)
# The plain rivals stay plain, and the embeddings of the test table would take as long as its fold.
NEVER = ("constant", "histgb", "embeddings")
AUGMENTED = ("trees", "tabular", "text")
# Hard labels are for one class of each row: no member takes probabilities as targets.
LABELLED = ("binary", "multiclass")
# Tried where the settings of the text have no augmentation.
TEXT_AUGMENTATION = {"shuffle_columns": 0.5, "drop_column": 0.1, "drop_token": 0.15}
AUGMENTATIONS = ("shuffle_columns", "drop_column", "numeric_jitter", "drop_token", "styles")


def base_of(name: str) -> str:
    """Return the member that a variant is of; any other member is its own."""
    return name.partition("+")[0]


def variant_of(name: str) -> str:
    """Return "pseudo" or "augment"; "" for a member that is no variant."""
    return name.partition("+")[2]


def variants_of(name: str) -> list[str]:
    """Return the names of all variants that a member may have."""
    return [f"{name}+{each}" for each in VARIANTS]


def choose_variants(
    config: RunConfig,
    competition: Competition,
    members: Iterable[str],
    test: Table | None,
    depends: str = "",
) -> tuple[list[str], list[str]]:
    """Return the variants to train, and notes on what is asked for and not possible.

    `depends` is "group" or "time" if the folds are divided by it.
    """
    chosen, notes, settings = [], [], config.variants
    members = [name for name in members if name not in NEVER]
    if settings.pseudo_labels != "off":
        if competition.task not in LABELLED:
            notes.append(f"no pseudo-labels: the task {competition.task} has no confidence of one "
                         f"class of a row")  # fmt: skip
        elif not test:
            notes.append("no pseudo-labels: there is no test table; name it with --test")
        elif depends:
            notes.append(f"no pseudo-labels: the {depends} of rows of the test table is not known, "
                         f"and folds are divided by it")  # fmt: skip
        else:
            chosen += [f"{name}+{PSEUDO}" for name in members]
    if settings.augment != "off":
        if competition.forecast:
            notes.append("no augmentation: the columns of a forecast are one past")
        else:
            chosen += [f"{name}+{AUGMENT}" for name in members if name in AUGMENTED]
    return chosen, notes


def text_settings(config: RunConfig, variant: str) -> RunConfig:
    """Return the configuration of a network: augmented only as a variant if that is measured."""
    if config.variants.augment == "off":
        return config
    plain = TextSettings()
    if variant != AUGMENT:
        changes = {name: getattr(plain, name) for name in AUGMENTATIONS}
    elif all(getattr(config.text, name) == getattr(plain, name) for name in AUGMENTATIONS):
        changes = TEXT_AUGMENTATION
    else:
        return config
    return replace(config, text=replace(config.text, **changes))


def changed_copies(columns: Columns, settings: VariantSettings, seed: int) -> Columns:
    """Return a copy of each row with noise on its numbers and some categories of other rows.

    Missing cells stay missing, and each column has the same categories as often.
    """
    rng = np.random.default_rng(seed)

    def noisy(values: np.ndarray) -> np.ndarray:
        known = np.isfinite(values)
        count = np.maximum(known.sum(0), 1)
        mean = np.where(known, values, 0).sum(0) / count
        spread = np.sqrt(np.where(known, np.square(values - mean), 0).sum(0) / count)
        moved = values + settings.jitter * spread * rng.standard_normal(values.shape)
        return moved.astype(values.dtype)

    categories = columns.categories.copy()
    for column in categories.T:
        swapped = np.flatnonzero(rng.random(len(column)) < settings.swap)
        column[swapped] = column[rng.permutation(swapped)]
    return replace(
        columns,
        numbers=noisy(columns.numbers),
        categories=categories,
        components=noisy(columns.components),
    )
