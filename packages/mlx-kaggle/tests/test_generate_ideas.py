"""Each idea is recognized in the columns where it makes sense, and not in others."""

import pytest

from mlx_kaggle.generate.grades import find_grades
from mlx_kaggle.generate.numbers import find_combinations
from mlx_kaggle.generate.parts import find_parts
from mlx_tabtext import infer_schema


def parts(cells: list, name: str = "code") -> dict[str, list]:
    table = {name: cells}
    found = find_parts(infer_schema(table), table)
    return {part.name: part.transform(table) for part in found.get(name, [])}


def grades(words: list[str]) -> dict[str, float]:
    table = {"grade": words * 3}
    found = find_grades(infer_schema(table, kinds={"grade": "categorical"}), table)
    return found[0].grades if found else {}


def test_codes_are_split_at_separators_and_between_letters_and_digits():
    for mark in ("-", "/", ""):
        found = parts([f"{'AB'[row % 2]}{mark}{row}{mark}{'NS'[row % 2]}" for row in range(30)])
        assert found["code part 1"][:2] == ["A", "B"]
        assert found["code part 2"][:3] == [0.0, 1.0, 2.0]
        assert found["code part 3"][:2] == ["N", "S"]


def test_an_id_shows_its_group():
    found = parts([f"{row // 2:04d}_{row % 2 + 1:02d}" for row in range(40)], "PassengerId")
    assert found["PassengerId part 1"][:4] == [0.0, 0.0, 1.0, 1.0]


def test_codes_of_several_layouts_have_letters_a_number_and_a_count():
    cells = [f"{'CBE'[row % 3]}{row}" for row in range(30)] + ["C85 C87", "D", None] * 2
    found = parts(cells, "Cabin")
    assert found["Cabin letters"][-6:] == ["C", "D", None] * 2
    assert found["Cabin number"][-6:] == [87.0, None, None] * 2
    assert found["Cabin items"][-6:] == [2.0, 1.0, None] * 2


def test_names_have_a_family_and_a_title():
    first = ["Anna", "Bertha", "Carl", "Dora", "Emil", "Fritz", "Georg"]
    cells = [
        f"{family}, {title}. {name}"
        for family in ("Braund", "Allen")
        for title in ("Mr", "Mrs")
        for name in first
    ]
    found = parts(cells, "Name")
    assert set(found) == {"Name before comma", "Name title"}
    assert set(found["Name title"]) == {"Mr", "Mrs"}
    assert found["Name before comma"][0] == "Braund"


def test_prose_random_strings_and_few_categories_have_no_parts():
    cold = "the ship went down with all of its passengers in a cold night of april"
    assert not parts([f"{cold} {row}" for row in range(40)])
    assert not parts([f"{row * 0x9E3779B97F4A7C15 % 2**64:016x}" for row in range(1, 99)])
    assert not parts([f"{'ABC'[row % 3]}-{row % 2}" for row in range(60)])


def test_a_column_that_is_unknown_when_predicting_has_no_parts():
    table = {"code": [f"A-{row}" for row in range(30)]}
    assert find_parts(infer_schema(table), table)
    assert not find_parts(infer_schema(table, kinds={"code": "ignored"}), table)


@pytest.mark.parametrize(
    "lowest_first",
    [
        ["Po", "Fa", "TA", "Gd", "Ex"],
        ["poor", "fair", "good", "excellent"],
        ["Fair", "Good", "Very Good", "Premium", "Ideal"],
        ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
        ["D", "E", "F", "G", "H", "I", "J"],
        ["low", "medium", "high"],
        ["S", "M", "L", "XL"],
        ["< 1 year", "1 year", "2 years", "10+ years"],
        ["0-17", "18-25", "26-35", "55+"],
        ["9th", "10th", "HS-grad", "Some-college", "Bachelors", "Masters", "Doctorate"],
    ],
)
def test_words_of_a_scale_are_ordered(lowest_first):
    found = grades(list(reversed(lowest_first)))
    assert sorted(found, key=found.__getitem__) == lowest_first
    assert len(set(found.values())) == len(lowest_first)


@pytest.mark.parametrize(
    "words", [["red", "green", "blue"], ["C", "Q", "S"], ["good", "bad"], ["1Fam", "2fm", "Duplex"]]
)
def test_other_words_are_no_scale(words):
    assert not grades(words)


def test_a_grade_may_be_in_the_labels_of_coded_cells():
    table = {"q": ["1", "2", "3"] * 4}
    schema = infer_schema(
        table,
        kinds={"q": "categorical"},
        value_labels={"q": {"1": "high", "2": "low", "3": "medium"}},
    )
    (found,) = find_grades(schema, table)
    assert sorted(found.grades, key=found.grades.__getitem__) == ["2", "3", "1"]


def test_sums_are_of_like_columns_and_a_total_replaces_its_addends():
    row = range(1, 41)
    table = {
        "1stFlrSF": [800 + 7 * each for each in row],
        "FinSF": [each * each % 500 for each in row],
        "UnfSF": [each * 37 % 400 for each in row],
        "TotalSF": [each * each % 500 + each * 37 % 400 for each in row],
        "LotArea": [100_000 + each for each in row],
        "YearBuilt": [1900 + each for each in row],
        "YrSold": [2006 + each % 4 for each in row],
    }
    found = dict(find_combinations(infer_schema(table), table))
    assert set(found) == {"sum of 1stFlrSF and TotalSF", "years before YrSold"}
    total = found["sum of 1stFlrSF and TotalSF"][0].transform(table)
    assert total[0] == table["1stFlrSF"][0] + table["TotalSF"][0]
    assert found["years before YrSold"][0].transform(table)[0] == 2007 - 1901
