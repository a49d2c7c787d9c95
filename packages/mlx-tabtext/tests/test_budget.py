import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tabtext import BudgetReport, TableText, TextConfig, infer_schema
from mlx_tabtext.budget import Segment, TokenBudget
from mlx_tabtext.serialize import DELIMITERS

STYLES = ("list", "sentence", "great", "json", "markdown")
TABLE = {
    "noise": ["red sky", "blue", None, "blue"] * 3,
    "good": ["yes please", "no", "yes please", None] * 3,
    "long": [" ".join(["word"] * (3 + 5 * each)) for each in range(12)],
}
TARGET = ["a", "b", "a", "c"] * 3


def fitted(max_tokens: int, count_tokens, **options) -> TableText:
    kinds = {"noise": "categorical", "good": "categorical", "long": "text"}
    text = TableText(infer_schema(TABLE, kinds=kinds), TextConfig(**options))
    return text.fit(TABLE, TARGET, count_tokens=count_tokens, max_tokens=max_tokens)


def words_of(texts):
    return [len(text.split()) for text in texts]


def characters_of(texts):
    return [len(text) for text in texts]


def with_specials(texts):
    return [len(text.split()) + 2 for text in texts]


@given(
    limit=st.integers(3, 60),
    style=st.sampled_from(STYLES),
    count=st.sampled_from([words_of, characters_of, with_specials]),
    missing=st.sampled_from(["omit", "unknown"]),
    order=st.sampled_from(["importance", "table"]),
)
def test_every_text_is_within_any_budget(limit, style, count, missing, order):
    text = fitted(limit, count, style=style, missing=missing, order=order)
    assert max(count(text.transform(TABLE))) <= limit
    assert max(count(text.augment(TABLE, seed=limit))) <= limit
    for texts in text.transform_tta(TABLE, count=3):
        assert max(count(texts)) <= limit


def test_the_least_important_columns_are_dropped_first_and_counted():
    table = {
        "noise": ["x y", "z"] * 4,
        "half": ["p", "q", "p", "q", "p", "q", "q", "p"],
        "good": ["a", "b"] * 2 + ["c", "d"] * 2,
    }
    target = ["a", "b"] * 2 + ["c", "d"] * 2
    schema = infer_schema(table, labels={"noise": "Noise of all"})
    text = TableText(schema, TextConfig(order="table"))
    text.fit(table, target, count_tokens=words_of, max_tokens=8)
    dropped = text.statistics.ranking[-1]
    kept = [name for name in table if name != dropped]
    assert text.statistics.ranking[0] == "good"
    for row, line in enumerate(text.transform(table)):
        pieces = {name: f"{schema[name].label}: {table[name][row]}" for name in table}
        if len(" ".join(pieces.values()).split()) <= 8:
            assert line == "; ".join(pieces.values())
        else:
            assert line == "; ".join(pieces[name] for name in kept)
    assert text.report.columns_dropped == {schema[dropped].label: 4}


def test_report_counts_and_reads_as_one_line():
    text = fitted(8, words_of)
    lines = text.transform(TABLE)
    assert lines[0] == "long: word word word; good: yes please"
    assert lines[11] == "long: word word word word word word word"
    report = text.report
    assert report == BudgetReport(12, 12, {"noise": 9, "good": 8}, 11)
    assert str(report) == (
        "12 of 12 rows shortened to the token budget; columns dropped: noise 9, good 8; values "
        "truncated: 11"
    )
    free = fitted(500, words_of)
    free.transform(TABLE)
    assert str(free.report) == "all 12 rows fit the token budget"
    assert report + free.report == BudgetReport(24, 12, {"noise": 9, "good": 8}, 11)


def test_numbers_are_never_cut():
    table = {"number": [123456789, 22]}
    text = TableText(infer_schema(table), TextConfig(style="json"))
    text.fit(table, count_tokens=characters_of, max_tokens=17)
    assert text.transform(table) == ["{}", '{"number": 22}']
    assert text.report == BudgetReport(2, 1, {"number": 1}, 0)


def test_a_word_beyond_the_budget_is_cut_at_a_character():
    table = {"text": ["x" * 50, "a b"]}
    text = TableText(infer_schema(table, kinds={"text": "text"}))
    text.fit(table, count_tokens=characters_of, max_tokens=10)
    assert text.transform(table) == ["x" * 8, "a b"]  # and two for a separator
    assert text.report.values_truncated == 1


SENTENCES = [
    list(kept)
    for count in (1, 2, 3)
    for kept in combinations(["Of class", "Paid", "Called", "Is"], count)
]


def test_template_sentences_are_dropped_whole(passengers):
    schema = infer_schema(passengers, target="Survived", kinds={"Cabin": "text"})
    template = "Of class {Pclass}. Paid {Fare} for it. Called {Name}. Is {Sex}."
    text = TableText(schema, TextConfig(style="template", template=template))
    text.fit(passengers, count_tokens=words_of, max_tokens=9)
    for line in text.transform(passengers):
        assert len(line.split()) <= 9
        assert line.endswith(".")
        assert re.findall(r"Of class|Paid|Called|Is", line) in SENTENCES
    assert text.report.rows_shortened == 3


def test_each_distinct_piece_is_counted_once_in_few_batches():
    batches = []

    def count(texts):
        batches.append(list(texts))
        return words_of(texts)

    table = {f"c{each}": ["x", "y", "z"] * 400 for each in range(10)}
    text = TableText(infer_schema(table)).fit(table, count_tokens=count, max_tokens=12)
    text.transform(table)
    counted = [each for batch in batches for each in batch]
    assert len(counted) == len(set(counted))
    assert len(batches) < 20


def test_a_tokenizer_that_joins_worse_than_it_splits_still_fits():
    def count(texts):  # a separator inside a text costs a token, at its end nothing
        return [len(text.split()) + len(re.findall(r"; \S", text)) for text in texts]

    table = {f"c{each}": ["x", "y", "z"] * 4 for each in range(10)}
    text = TableText(infer_schema(table)).fit(table, count_tokens=count, max_tokens=20)
    assert max(count(text.transform(table))) <= 20


def test_texts_are_counted_in_the_order_they_are_printed():
    def count(texts):  # a text that starts with a "c" costs more than it does in any other order
        return [len(text.split()) + 2 * text.startswith("c") for text in texts]

    table = {name: ["x", "y", "z"] * 20 for name in ("b1", "b2", "c3", "b4")}
    text = TableText(infer_schema(table)).fit(table, count_tokens=count, max_tokens=8)
    assert max(count(text.augment(table, seed=0))) <= 8


def test_impossible_budgets_and_counters_are_named():
    with pytest.raises(ValueError, match=r"^max_tokens=2 leaves no room: an empty text counts 2 t"):
        fitted(2, with_specials)
    with pytest.raises(
        ValueError, match=r"^count_tokens returned 0 counts for 1 texts; it must re"
    ):
        fitted(2, lambda texts: [])


def test_columns_beyond_the_budget_are_counted_but_never_formatted(count_words):
    def format_values():
        raise AssertionError("the budget was used up before this column")

    first = Segment(("a",), lambda: ["one two", "three four"], lambda: np.ones(2, bool), str)
    last = Segment(("z",), format_values, lambda: np.array([True, False]), str)
    full = Segment(("m",), lambda: ["five"] * 2, lambda: np.ones(2, bool), str)
    segments = [first, full, last]
    budget = TokenBudget(count_words, 2)
    report = budget.trim(segments, DELIMITERS["list"], np.tile(np.arange(3), (2, 1)))
    assert (report.rows_shortened, report.columns_dropped) == (2, {"m": 2, "z": 1})
    assert [segment.pieces for segment in segments] == [
        ["one two", "three four"],
        [None] * 2,
        [None] * 2,
    ]


def test_a_huge_cell_is_cut_without_counting_it_again_and_again():
    counted = []

    def count(texts):
        counted.extend(map(len, texts))
        return [len(text.split()) for text in texts]

    huge = "word " * 200_000
    table = {"note": [huge, "a short note of six words"]}
    schema = infer_schema(table, kinds={"note": "text"})
    text = TableText(schema).fit(table, count_tokens=count, max_tokens=20)
    assert text.transform(table) == [" ".join(["word"] * 20), "a short note of six words"]
    assert sum(length > 1000 for length in counted) <= 1
