import json
import logging
from pathlib import Path

import numpy as np
import pytest

from mlx_tabtext import TableText, TextConfig, infer_schema, numeric_values
from mlx_tabtext.statistics import WORDS, NumberStatistics

REFERENCE = json.loads((Path(__file__).parent / "fixtures" / "reference.json").read_text())


def words_for(train: list, cells: list, numbers: str = "word") -> list[str]:
    schema = infer_schema({"x": train}, id_column="")
    text = TableText(schema, TextConfig(numbers=numbers)).fit({"x": train})
    return [line.removeprefix("x: ") for line in text.transform({"x": cells})]


def test_importance_agrees_with_scikit_learn():
    table = {name: REFERENCE[name] for name in ("number", "category")}
    text = TableText(infer_schema(table)).fit(table, REFERENCE["label"])
    # decile edges of ties may differ by one row of 400 between pandas and here
    assert text.statistics.importance == pytest.approx(REFERENCE["scores"], abs=0.01)


@pytest.mark.parametrize(("part", "parts"), [("fifths", 5), ("tenths", 10)])
def test_quantile_bins_agree_with_pandas(part, parts):
    values = numeric_values({"x": REFERENCE["number"]}, "x")
    known = values[~np.isnan(values)]
    statistics = NumberStatistics.fit(known)
    if parts == 5:
        found = [WORDS.index(statistics.word(value)) for value in known]
    else:
        found = [int(statistics.bin(value).split()[0][1:]) - 1 for value in known]
    # one of ~360 values may stand on an edge itself, where the two differ in which side it is of
    different = np.flatnonzero(np.array(found) != np.array(REFERENCE[part]))
    assert len(different) <= parts
    assert all(abs(found[at] - REFERENCE[part][at]) == 1 for at in different)


def test_frequent_values_have_the_middle_rank_and_the_extremes_the_ends():
    train = [0.0] * 90 + [float(each) for each in range(1, 21)]
    assert words_for(train, [0, 7, 20, 99, -5]) == [
        "very low",
        "very high",
        "very high",
        "very high",
        "very low",
    ]
    hours = (
        [float(each) for each in range(20, 40)] + [40.0] * 40 + [41.0 + each for each in range(20)]
    )
    assert words_for(hours, [40], "value+word") == ["40 (medium)"]


def test_few_values_and_constants_get_no_word():
    assert words_for([1, 2, 3] * 10, [2, 9]) == ["2", "9"]
    months = [each % 12 + 1 for each in range(60)]
    assert words_for(months, [7], "value+bin") == ["7"]
    schema = infer_schema({"x": [5, 5]}, kinds={"x": "numeric"})
    constant = TableText(schema, TextConfig(numbers="value+word")).fit({"x": [5, 5]})
    assert constant.transform({"x": [5, None]}) == ["x: 5", ""]


def test_years_are_early_or_late():
    table = {"YearBuilt": list(range(1900, 2000))}
    text = TableText(infer_schema(table, id_column=""), TextConfig(numbers="value+word")).fit(table)
    assert text.transform({"YearBuilt": [1901, 1950, 1999]}) == [
        "year built: 1901 (very early)",
        "year built: 1950 (middle)",
        "year built: 1999 (very late)",
    ]


def test_ranking_has_short_free_text_first_then_the_most_important():
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 200)
    table = {
        "noise": random.normal(size=200).tolist(),
        "body": [" ".join(random.choice(list("abcdef"), 30)) for _ in range(200)],
        "title": [" ".join(random.choice(list("abcdef"), 8)) for _ in range(200)],
        "ticket": [f"T{each}" for each in random.permutation(200)],
        "weak": np.where(random.random(200) < 0.7, y, 1 - y).tolist(),
        "strong": np.where(random.random(200) < 0.95, y, 1 - y).tolist(),
    }
    text = TableText(infer_schema(table)).fit(table, y)
    assert text.statistics.free_text == ("title", "body")
    assert text.statistics.ranking[:4] == ("title", "body", "strong", "weak")
    # bias correction: unique codes and noise tell nothing, however many values they have
    assert text.statistics.importance["ticket"] == pytest.approx(0, abs=0.02)
    assert text.statistics.importance["noise"] == pytest.approx(0, abs=0.05)
    several = TableText(infer_schema(table)).fit(table, np.stack([y, y], 1))
    assert several.statistics.ranking == text.statistics.ranking
    assert TableText(infer_schema(table)).fit(table).statistics.ranking == (
        *("title", "body", "noise", "ticket", "weak", "strong"),
    )


def test_a_column_that_is_the_target_is_logged(caplog):
    y = ["a", "b", "c"] * 40
    table = {"code": [ord(each) for each in y], "x": [1, 2, 3, 4] * 30, "y": y}
    with caplog.at_level(logging.WARNING):
        TableText(infer_schema(table, target="y")).fit(table)
    assert caplog.messages == ["column 'code' alone predicts the target: is it a leak?"]
