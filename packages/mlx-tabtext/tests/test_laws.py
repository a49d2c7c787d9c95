import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tabtext import (
    Augmentation,
    Column,
    Schema,
    TableError,
    TableText,
    TextConfig,
    is_missing,
    numeric_values,
)
from mlx_tabtext.statistics import NumberStatistics

SCHEMA = Schema(
    (
        Column("n", "numeric", "n"),
        Column("word", "categorical", 'a "label"'),
        Column("note", "text", "note"),
        Column("flag", "boolean", "flag"),
    )
)
anything = st.text(st.characters(codec="utf-8"), max_size=12)
numbers = st.none() | st.integers(-(10**12), 10**12) | st.floats(width=32)
rows = st.lists(
    st.tuples(
        numbers, st.none() | anything, st.none() | anything, st.sampled_from([True, False, None])
    ),
    min_size=1,
    max_size=8,
)


def table_of(rows) -> dict[str, list]:
    return {
        c.name: list(cells)
        for c, cells in zip(SCHEMA.columns, zip(*rows, strict=True), strict=True)
    }


def fit(table, **options) -> TableText:
    return TableText(SCHEMA, TextConfig(**options)).fit(table, range(len(table["n"])))


@given(rows, st.sampled_from(["omit", "unknown"]))
def test_values_are_recovered_from_json(rows, missing):
    table = table_of(rows)
    text = fit(table, style="json", digits=17, missing=missing)
    for row, line in zip(rows, text.transform(table), strict=True):
        number, word, note, flag = row
        expected = {
            "n": number,
            'a "label"': " ".join((word or "").replace("%20", " ").split()),
            "note": " ".join((note or "").split()),
            "flag": {True: "yes", False: "no"}.get(flag),
        }
        empty = dict(zip(expected, map(is_missing, row), strict=True))
        if missing == "omit":
            expected = {label: value for label, value in expected.items() if not empty[label]}
        else:
            expected = {
                label: "unknown" if empty[label] else value for label, value in expected.items()
            }
        found = json.loads(line)
        if isinstance(expected.get("n"), float):  # 17 digits, but of the number as formatted
            assert found.pop("n") == pytest.approx(expected.pop("n"), rel=1e-15)
        assert found == expected


plain = st.text(st.characters(codec="utf-8", exclude_characters=";:%"), max_size=12)


@given(st.lists(st.tuples(numbers, plain, plain, st.booleans()), min_size=1, max_size=8))
def test_values_without_separators_are_recovered_from_lists(rows):
    table = table_of(rows)
    text = fit(table, missing="unknown")
    for row, line in zip(rows, text.transform(table), strict=True):
        found = dict(piece.split(": ", 1) for piece in line.split("; "))
        assert list(found) == [SCHEMA[name].label for name in text.statistics.ranking]
        assert found["flag"] == ("yes" if row[3] else "no")
        for label, cell in (('a "label"', row[1]), ("note", row[2])):
            assert found[label] == ("unknown" if is_missing(cell) else " ".join(cell.split()))


@given(rows, st.data())
def test_a_row_has_the_same_text_in_any_table(rows, data):
    table = table_of(rows)
    text = fit(table, numbers="value+word")
    whole = text.transform(table)
    assert text.transform(table) == whole
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = table_of([rows[at] for at in order])
    assert text.transform(shuffled) == [whole[at] for at in order]
    assert [text.transform(table_of([row]))[0] for row in rows] == whole


@given(rows, rows, st.integers(0, 99))
def test_other_tables_change_nothing_that_was_learned(train, test, seed):
    table = table_of(train)
    text = fit(table, numbers="value+bin")
    before, texts = json.dumps(text.to_dict()), text.transform(table)
    text.transform(table_of(test))
    text.augment(table_of(test), seed=seed)
    assert json.dumps(text.to_dict()) == before
    assert text.transform(table) == texts


@given(rows, st.integers(0, 2**32), st.sampled_from(["omit", "unknown"]))
def test_augmented_texts_hold_only_pieces_of_their_row(rows, seed, missing):
    table = table_of(rows)
    text = fit(table, style="json", missing=missing, numbers="value+word")
    change = Augmentation(shuffle_columns=0.5, drop_column=0.5, styles=("json",))
    for plain, varied in zip(
        text.transform(table), text.augment(table, seed=seed, augmentation=change), strict=True
    ):
        pieces, kept = json.loads(plain), json.loads(varied)
        assert kept.items() <= pieces.items()
        assert kept or not pieces or all(value == "unknown" for value in pieces.values())


@given(rows, st.integers(0, 2**32), st.integers(0, 7))
def test_augmentation_depends_on_seed_and_position_only(rows, seed, cut):
    table, cut = table_of(rows), min(cut, len(rows))
    text = fit(table)
    change = Augmentation(drop_column=0.3, numeric_jitter=0.1, styles=("list", "great"))
    whole = text.augment(table, seed=seed, augmentation=change)
    start = text.augment(table_of(rows[:cut]), seed=seed, augmentation=change) if cut else []
    rest = rows[cut:]
    if rest:
        start += text.augment(table_of(rest), seed=seed, augmentation=change, first_row=cut)
    assert start == whole


@given(rows, st.integers(0, 2**32), st.sampled_from(["importance", "table"]))
def test_no_augmentation_is_transform(rows, seed, order):
    table = table_of(rows)
    text = fit(table, order=order)
    nothing = Augmentation(shuffle_columns=0, drop_column=0)
    assert text.augment(table, seed=seed, augmentation=nothing) == text.transform(table)


@given(rows, st.integers(0, 99))
def test_time_augmentation_permutes_the_pieces(rows, seed):
    table = table_of(rows)
    text = fit(table, style="markdown")
    lists = text.transform_tta(table, count=4, seed=seed)
    assert lists[0] == text.transform(table)
    for texts in lists:
        for first, line in zip(lists[0], texts, strict=True):
            assert Counter(line.split("\n")) == Counter(first.split("\n"))


@given(st.lists(st.floats(-1e6, 1e6), min_size=13, max_size=60, unique=True), st.data())
def test_higher_numbers_never_get_lower_words(values, data):
    statistics = NumberStatistics.fit(numeric_values({"x": values}, "x"))
    probes = sorted(data.draw(st.lists(st.floats(-2e6, 2e6), min_size=2, max_size=20)))
    ranks = [statistics.rank(probe) for probe in probes]
    assert ranks == sorted(ranks)
    assert statistics.rank(min(values)) == 0.0
    assert statistics.rank(max(values)) == 1.0


def test_styles_mix_and_free_text_is_never_dropped():
    table = {
        "n": list(range(40)),
        "word": ["a", "b"] * 20,
        "note": ["six words stand in this note"] * 40,
        "flag": [True, False] * 20,
    }
    text = fit(table)
    change = Augmentation(drop_column=0.9, styles=("list", "sentence"))
    texts = text.augment(table, seed=0, augmentation=change)
    assert all("six words stand in this note" in line for line in texts)
    sentences = sum(line.startswith("The ") for line in texts)
    assert 5 < sentences < 35
    orders = {line.index("note") > 4 for line in text.augment(table, seed=1)}
    assert orders == {True, False}


def test_jitter_keeps_range_decimals_and_few_valued_columns():
    ages = [20.0 + each / 2 for each in range(80)]
    table = {"n": ages, "word": [1, 2] * 40, "note": ["x"] * 80, "flag": [True] * 80}
    text = fit(table, style="json", digits=9)
    change = Augmentation(shuffle_columns=0, drop_column=0, numeric_jitter=0.2)
    texts = text.augment(table, seed=0, augmentation=change)
    moved = [json.loads(line)["n"] for line in texts]
    assert moved != ages
    assert all(20 <= each <= 59.5 for each in moved)
    assert all(new == round(new, 1) for new in moved)
    # 0.2 deviations of 11.5 years: the noise of 80 rows stays under 5 deviations of itself
    assert max(abs(new - old) for new, old in zip(moved, ages, strict=True)) < 11.6
    assert [json.loads(line)['a "label"'] for line in texts] == ["1", "2"] * 40


def test_bad_augmentations_are_named():
    with pytest.raises(ValueError, match=r"^drop_column is a probability from 0 to 1, not 2$"):
        Augmentation(drop_column=2)
    with pytest.raises(ValueError, match=r"^numeric_jitter must be 0 or more, not -1$"):
        Augmentation(numeric_jitter=-1)
    with pytest.raises(ValueError, match=r"^unknown style 'lisst'; did you mean 'list'\?$"):
        Augmentation(styles=("lisst",))
    table = table_of([(1, "a", "b", True), (2, "c", "d", False)])
    with pytest.raises(ValueError, match=r"^styles has 'template', but this TableText has no temp"):
        fit(table).augment(table, seed=0, augmentation=Augmentation(styles=("template",)))
    with pytest.raises(ValueError, match=r"^seed and first_row must be 0 or more, not -1 and 0$"):
        fit(table).augment(table, seed=-1)
    with pytest.raises(ValueError, match=r"^count must be at least 1, not 0$"):
        fit(table).transform_tta(table, count=0)
    with pytest.raises(TableError, match=r"^no rows to fit on; the table has only a header$"):
        fit({name: [] for name in table})
