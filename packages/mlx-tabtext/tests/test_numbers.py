import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tabtext import (
    Column,
    Schema,
    TableText,
    TextConfig,
    find_invalid_cells,
    find_number_format,
    infer_schema,
    is_infinite,
    numeric_values,
    parse_number,
)
from mlx_tabtext.numbers import MARKS

UNITS = {
    "": "{}",
    "$": "${}",
    "€": "{} €",
    "USD": "USD {}",
    "kr": "{}\u00a0kr",
    "US$": "US${}",
    "₹": "₹ {}",
}
values = st.floats(-(10**9), 10**9).map(lambda value: float(f"{value:.4f}"))


def written(value: float, marks: str, unit: str, percent: bool, negative: str) -> str:
    """Render as people do, with a reference that knows nothing of our parser."""
    thousands, decimal = MARKS[marks]
    whole, _, fraction = f"{abs(value):,.4f}".partition(".")
    text = whole.replace(",", thousands) + decimal + fraction
    text = UNITS[unit].format(text) + ("%" if percent else "")
    return negative.format(text) if math.copysign(1, value) < 0 else text


@given(
    st.lists(values, max_size=8),
    st.sampled_from(list(MARKS)),
    st.sampled_from(list(UNITS)),
    st.booleans(),
    st.sampled_from(["-{}", "({})", "−{}"]),
)
def test_numbers_are_read_as_they_are_written(found, marks, unit, percent, negative):
    found = [*found, 1234567.8, 0.25, -3.5]  # two groups and a fraction: no doubt about the marks
    cells = [written(value, marks, unit, percent, negative) for value in found]
    number_format = find_number_format(cells)
    assert [parse_number(cell, number_format) for cell in cells] == found
    column = infer_schema({"first": ["a"] * len(cells), "x": cells})["x"]
    assert (column.kind, column.number_format) == ("numeric", number_format)


@given(st.text(st.sampled_from("0123456789.,'’ \u00a0-+−()$€%eE"), max_size=12))
def test_no_format_reads_what_is_no_number(text):
    for marks in MARKS:
        for name in (marks, f"${marks}%"):
            number = parse_number(text, name)
            assert number is None or math.isfinite(number)
            digits = [each for each in text if each.isdigit()]
            assert number is None or digits


@pytest.mark.parametrize(
    ("cells", "number_format", "reason"),
    [
        (["0.5", "1.25"], None, ""),
        (["$1,234.50", "$12"], "$1,234.5", ", '$1,234.50' is read as 1234.5"),
        (["45%", "7%"], "1234.5%", ", '45%' is read as 45"),
        (["1,5", "0,25"], "1.234,5", ", '0,25' is read as 0.25"),
        (["1 234", "12"], "1 234.5", ", '1 234' is read as 1234"),
        (["1\u00a0234,5", "12"], "1 234,5", ", '1\\xa0234,5' is read as 1234.5"),
        (["1\u202f234", "12"], "1 234.5", ", '1\\u202f234' is read as 1234"),
        (["(12)", "12"], "1234.5", ", '(12)' is read as -12"),
        (["12,34,567", "1,00,000"], "1,234.5", ", '1,00,000' is read as 100000"),
        (["1,234", "5,678"], "1,234.5", ", '1,234' is read as 1234, not as 1.234"),
        (["1.234", "5.678"], None, ", '1.234' is read as 1.234, not as 1234"),
        (["inf", "2", "-Infinity"], None, ", 40 infinite cells are read as missing"),
        (
            ["inf", "(2)", "3"],
            "1234.5",
            ", '(2)' is read as -2, 20 infinite cells are read as missing",
        ),
    ],
)
def test_the_reason_says_how_numbers_are_read(cells, number_format, reason):
    table = {"first": list("ab") * 30, "x": (cells * 60)[:60]}
    column = infer_schema(table)["x"]
    assert (column.kind, column.number_format) == ("numeric", number_format)
    assert column.reason == f"{len(set(cells))} distinct values{reason}"


@pytest.mark.parametrize(
    "cells",
    [
        ["01234", "90210"],  # postal codes
        ["01,5", "02,5"],
        ["601 123 456", "602 234 567"],  # phone numbers
        ["0601 123 456", "0602 234 567"],
        ["(555)", "(212)"],  # area codes
        ["$12", "€11"],  # no sum of both makes sense
        ["192.168.100.200", "10.0.0.1"],
        ["1,234.5", "1.234,5"],
        ["12-3", "4-5"],
        ["1_000", "0x1F"],
    ],
)
def test_codes_are_no_numbers(cells):
    table = {"first": list("ab") * 30, "x": (cells * 60)[:60]}
    column = infer_schema(table)["x"]
    assert (column.kind, column.number_format) == ("categorical", None)


def test_the_other_columns_decide_what_one_leaves_open():
    table = {"first": list("ab"), "sure": ["1,5", "2"], "a": ["1,234", "2,345"],
             "b": ["1.234", "2.345"]}  # fmt: skip
    schema = infer_schema(table)
    assert schema["a"].reason == "2 distinct values, '1,234' is read as 1.234, not as 1234"
    assert schema["b"].reason == "2 distinct values, '1.234' is read as 1234, not as 1.234"
    assert infer_schema({**table, "other": ["1.5", "2"]})["a"].number_format == "1,234.5"


def test_the_rule_of_the_training_column_reads_other_tables_and_counts_the_rest():
    schema = infer_schema({"first": list("ab"), "x": ["1,5", "2,25"], "when": ["1.2.2012"] * 2},
                          kinds={"when": "date"})  # fmt: skip
    test = {
        "x": ["3,5", "2.5", "1.234", "", "$4", "inf", "7"],
        "when": ["3.4.2012", None, "2012-04-03", "", "", "", ""],
    }
    rule = schema["x"].number_format
    expected = [3.5, math.nan, 1234, math.nan, math.nan, math.nan, 7]
    np.testing.assert_array_equal(numeric_values(test, "x", number_format=rule), expected)
    assert find_invalid_cells(test, schema) == {"x": [1, 4, 5], "when": [2]}
    assert find_invalid_cells({"first": ["a"]}, schema) == {}


def test_a_given_numeric_column_and_a_target_have_a_format_too():
    table = {"x": ["$1,000", "a", "b"], "y": ["1 500,5", "2", "inf"]}
    schema = infer_schema(table, target="y", kinds={"x": "numeric"})
    assert schema["x"].reason == "given, 33.3% numbers, '$1,000' is read as 1, not as 1000"
    assert schema["y"].number_format == "1 234,5"
    assert schema["y"].reason == (
        "given, '1 500,5' is read as 1500.5, 1 infinite cell is read as missing"
    )


@pytest.mark.parametrize("cell", [math.inf, -math.inf, "inf", "-Infinity", "∞", "1e400", 10**400])
def test_no_infinite_number_reaches_a_number_or_a_text(cell):
    assert is_infinite(cell)
    table = {"first": list("ab") * 20, "x": [*range(1, 40), cell]}
    schema = infer_schema(table)
    assert schema["x"].reason.endswith(" distinct values, 1 infinite cell is read as missing")
    assert np.isnan(numeric_values(table, "x")[-1])
    for missing, said in (("omit", "first: b"), ("unknown", "first: b; x: unknown")):
        text = TableText(schema, TextConfig(missing=missing, order="table", numbers="value+bin"))
        assert text.fit(table, [0, 1] * 20).transform(table)[-1] == said
    assert infer_schema({"a": [cell, cell, "-inf"], "b": [1, 2, 2]})["a"].kind == "ignored"


def test_texts_have_the_number_and_schemas_the_format():
    table = {"first": list("ab") * 20, "x": [f"$1,{each}.50" for each in range(200, 240)]}
    schema = infer_schema(table)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    text = TableText(schema, TextConfig(order="table", digits=6)).fit(table, [0, 1] * 20)
    assert text.transform({"first": ["a"] * 3, "x": ["$1,299.50", "(7)", "12 apples"]}) == [
        "first: a; x: 1299.5",
        "first: a; x: -7",
        "first: a; x: 12 apples",
    ]


def test_schemas_saved_before_there_were_formats_are_read():
    old = {"name": "x", "kind": "numeric", "label": "x", "reason": "", "value_labels": {},
           "date_format": None}  # fmt: skip
    assert Schema.from_dict({"columns": [old]})["x"] == Column("x", "numeric", "x")
