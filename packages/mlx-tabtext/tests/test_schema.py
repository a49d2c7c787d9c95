import json
from datetime import date

import pytest

from mlx_tabtext import Schema, TableError, infer_schema

ROWS = 60


def kind_and_reason(cells, name="column", **options):
    column = infer_schema({"first": list("ab") * (len(cells) // 2), name: cells}, **options)[name]
    return column.kind, column.reason


@pytest.mark.parametrize(
    ("cells", "kind", "reason"),
    [
        ([None] * ROWS, "ignored", "all cells missing"),
        (["NA", "?"] * 30, "ignored", "all cells missing"),
        (["x"] * ROWS, "ignored", "constant: 'x' in every row"),
        (["x", None] * 30, "categorical", "1 distinct value"),
        (["1", "2", "3"] * 20, "numeric", "3 distinct values"),
        ([0, 1] * 30, "numeric", "2 distinct values"),
        (
            [f"{each}" for each in range(58)] + ["-", "-"],
            "numeric",
            "59 distinct values, 96.7% numbers",
        ),
        (["007", "012"] * 30, "categorical", "codes with leading zeros"),
        ([True, False, None] * 20, "boolean", "only False and True"),
        (["Yes", "no"] * 30, "boolean", "only Yes and no"),
        (["y", "n"] * 30, "boolean", "only n and y"),
        (["y", None] * 30, "categorical", "1 distinct value"),
        (["red", "green"] * 30, "categorical", "2 distinct values"),
        (["2012-03-14", "1999-12-31"] * 30, "date", "dates like 1999-12-31"),
        ([date(2012, 3, 14), None] * 30, "date", "dates like 2012-03-14"),
        ([f"C{each}" for each in range(ROWS)], "text", "60 distinct short values in 60 cells"),
        ([f"A man of {each}" for each in range(ROWS)], "text", "4 words per cell, 100% unique"),
        (["not in family", "own child here"] * 30, "categorical", "2 distinct values"),
    ],
)
def test_kinds_follow_the_rules(cells, kind, reason):
    assert kind_and_reason(cells) == (kind, reason)


def test_the_id_is_found_by_name_or_by_counting():
    schema = infer_schema({"x": [3, 1, 2], "user_id": ["a", "b", "c"], "otherId": [7, 8, 9]})
    assert schema.id == "user_id"
    assert schema["user_id"].reason == "100 % unique, name ends in 'id'"
    assert schema["otherId"].kind == "ignored"
    assert infer_schema({"n": [1, 2, 3], "x": [5, 5, 6]}).id == "n"
    assert infer_schema({"year": [1949, 1950, 1951], "x": [5, 5, 6]}).id is None
    assert infer_schema({"paid": [10, 20, 30], "x": [5, 5, 6]}).id is None
    assert infer_schema({"id": [1, 2, 3], "x": [5, 5, 6]}, id_column="").id is None
    assert infer_schema({"id": [1, 2, 3], "x": [5, 6, 7]}, id_column="x").id == "x"


def test_inference_does_not_depend_on_row_order():
    cells = ["14/03/2012", "03/14/2012", *(f"{day:02}/01/2012" for day in range(1, 29))] * 3
    assert kind_and_reason(cells) == kind_and_reason(cells[::-1])


def test_given_kinds_labels_and_value_labels_win():
    table = {"Sex": ["m", "f"], "Flag": [0, 1], "y1": [1, 2], "y2": [3, 4], "Alley": ["NA", "NA"]}
    schema = infer_schema(
        table,
        target=["y1", "y2"],
        kinds={"Flag": "boolean"},
        labels={"Sex": "gender"},
        value_labels={"Alley": {"NA": "no alley"}},
    )
    assert schema.targets == ("y1", "y2")
    assert schema.target == "y1"
    assert schema["Flag"].kind == "boolean"
    assert schema["Sex"].label == "gender"
    assert schema["Alley"].reason == "constant: 'NA' in every row"
    assert [column.name for column in schema.features] == ["Sex", "Flag"]


def test_labels_stay_different():
    table = {"Age": [1, 2], "age": [1, 2], "_age": [1, 2], "a_b": [1, 2]}
    labels = [column.label for column in infer_schema(table, labels={"a_b": "age"}).columns]
    assert labels == ["Age", "age 2", "_age", "age"]


def test_schema_survives_json(passengers):
    schema = infer_schema(passengers, target="Survived", value_labels={"Sex": {"male": "man"}})
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target": "Survive"},
            "target: no column 'Survive' in the table; did you mean 'Survived'?",
        ),
        (
            {"id_column": "PassangerId"},
            "id_column: no column 'PassangerId' in the table; did you mean 'PassengerId'?",
        ),
        ({"kinds": {"age": "numeric"}}, "kinds: no column 'age' in the table; did you mean 'Age'?"),
        (
            {"labels": {"Farre": "x"}},
            "labels: no column 'Farre' in the table; did you mean 'Fare'?",
        ),
        (
            {"kinds": {"Age": "numerical"}},
            "column 'Age': unknown kind 'numerical'; did you mean 'numeric'?",
        ),
        (
            {"kinds": {"Age": "id"}},
            "column 'Age': give the id as a separate argument, not in kinds",
        ),
        ({"labels": {"Age": "a", "Sex": "a"}}, "labels: 'Age' and 'Sex' have the same label 'a'"),
        (
            {"target": "Age", "id_column": "Age"},
            "column 'Age' is given as both target and id_column",
        ),
        ({"labels": {"Age": " "}}, "labels: the label of 'Age' is empty"),
    ],
)
def test_wrong_arguments_are_named(passengers, options, message):
    with pytest.raises(TableError) as error:
        infer_schema(passengers, **options)
    assert str(error.value) == message


def test_no_rows_and_no_table_are_errors():
    with pytest.raises(TableError, match=r"^no rows to infer column kinds from; .* only a header$"):
        infer_schema({"a": []})
    with pytest.raises(TableError, match=r"^a table is a dict .*, not list; call as_table\(\)"):
        infer_schema([{"a": 1}])
    with pytest.raises(TableError) as error:
        infer_schema({"a": [1, 2], "b": [1, 2]})["c"]
    assert str(error.value) == "no column 'c' in the schema; valid: a, b"
