import datetime
import math

import numpy as np
import pytest

from mlx_tabtext import TableError, TableText, TextConfig, as_table, infer_schema

COLUMNS = {
    "id": [1, 2, 3, 4],
    "y": [0, 1, 0, 1],
    "age": [22.0, None, 38.5, 4.0],
    "count": [1, 2, None, 30],
    "name": ["Zoë", 'it\'s; "x"', None, "東京 tower"],
    "member": [True, None, False, True],
    "born": [datetime.date(2012, 3, 14), None, datetime.date(1999, 12, 31), datetime.date.max],
    "seen": [datetime.datetime(2012, 3, 14, 13, 5), None, None, datetime.datetime(2020, 1, 1)],
}


def texts_of(data) -> list[str]:
    table = as_table(data)
    schema = infer_schema(table, target="y", kinds={"name": "text"})
    text = TableText(schema, TextConfig(missing="unknown", numbers="value+bin", order="table"))
    return text.fit(table).transform(table)


def dict_rows() -> list[dict]:
    names = list(COLUMNS)
    return [dict(zip(names, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]


def test_dict_rows_give_the_texts_of_columns():
    assert texts_of(dict_rows()) == texts_of(COLUMNS)
    sparse = [{key: cell for key, cell in row.items() if cell is not None} for row in dict_rows()]
    assert texts_of(sparse) == texts_of(COLUMNS)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_give_the_texts_of_columns(library):
    module = pytest.importorskip(library)
    frame = module.table(COLUMNS) if library == "pyarrow" else module.DataFrame(COLUMNS)
    assert texts_of(frame) == texts_of(COLUMNS)
    assert texts_of(COLUMNS)[0] == (
        "age: 22; count: 1; name: Zoë; member: yes; born: 14 March 2012, Wednesday; "
        "seen: 14 March 2012, Wednesday, 13:05"
    )


def test_pandas_nullable_and_categorical_columns_are_read():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "a": pandas.array([1, None], dtype="Int64"),
            "b": pandas.Categorical(["x", None]),
            "c": pandas.array([True, None], dtype="boolean"),
            "d": pandas.to_datetime(["2012-03-14", None]),
        }
    )
    table = as_table(frame)
    assert {name: cells[1] for name, cells in table.items()} == dict.fromkeys("abcd")
    assert [cells[0] for cells in table.values()][:3] == [1, "x", True]
    assert isinstance(table["d"][0], datetime.datetime)


def test_pandas_column_names_need_not_be_text():
    pandas = pytest.importorskip("pandas")
    assert as_table(pandas.DataFrame({0: [1, 2], 1: ["a", None]})) == {
        "0": [1, 2],
        "1": ["a", None],
    }
    with pytest.raises(TableError, match=r"^cannot read a table from DataFrame; .*unique column"):
        as_table(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


def test_other_objects_are_no_tables():
    with pytest.raises(
        TableError, match=r"^cannot read a table from str; give a pandas, polars or"
    ):
        as_table("train.csv")


def test_times_become_text():
    cells = [datetime.time(13, 5), datetime.timedelta(hours=2)]
    assert as_table({"a": cells}) == {"a": ["13:05:00", "2:00:00"]}


def test_numpy_cells_become_plain():
    table = as_table({"a": np.array([1.5, math.nan]), "b": np.array(["x", "y"])})
    assert table == {"a": [1.5, None], "b": ["x", "y"]}
    assert type(table["a"][0]) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": [1], "b": [1, 2]}, "columns differ in length: 'a' has 1 cells, 'b' has 2"),
        ({}, "a table needs at least one column, this one has none"),
        ([1], "row 0 is int; a list of rows needs one dict per row"),
        (
            {"a": [1, [2]]},
            "column 'a', row 1: a cell is text, a number, a boolean, a date or None, not list",
        ),
        ({"a": 5}, "column 'a' is int, not a list of cells"),
        ({1: [1], "1": [2]}, "column name '1' occurs twice; rename one"),
    ],
)
def test_what_is_no_table_is_named(data, message):
    with pytest.raises(TableError) as error:
        as_table(data)
    assert str(error.value) == message
