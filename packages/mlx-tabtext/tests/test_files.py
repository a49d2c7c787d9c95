import datetime
import gzip
import io
import json
import logging
import sys
import zipfile

import pytest

from mlx_tabtext import TableError, infer_schema, read_table

ROWS = [
    {"id": 1, "age": 22, "name": "Ann", "price": 1.5},
    {"id": 2, "name": "Bob", "price": 2.25},
    {"id": 3, "age": 30, "name": "Zoë", "price": 7.75},
]
NAMES = ("id", "age", "name", "price")
CSV = "id,age,name,price\n1,22,Ann,1.5\n2,,Bob,2.25\n3,30,Zoë,7.75\n".encode()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"


def zipped(**members: bytes) -> bytes:
    with zipfile.ZipFile(raw := io.BytesIO(), "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return raw.getvalue()


def parquet(columns: dict) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pyarrow.table(columns), raw := io.BytesIO())
    return raw.getvalue()


def workbook(rows: list[list], *sheets: str) -> bytes:
    book = pytest.importorskip("openpyxl").Workbook()
    for row in rows:
        book.active.append(row)
    for name in sheets:
        book.create_sheet(name)
    book.save(raw := io.BytesIO())
    return raw.getvalue()


MAKERS = {
    "t.csv": lambda: CSV,
    "t.tsv": lambda: CSV.replace(b",", b"\t"),
    "t.csv.gz": lambda: gzip.compress(CSV),
    "T.CSV.GZ": lambda: gzip.compress(CSV),
    "t.zip": lambda: zipped(**{"in/t.csv": CSV, "__MACOSX/in/._t.csv": b"x", "readme.md": b"x"}),
    "t.csv.zip": lambda: zipped(**{"t.csv": CSV}),
    "t.parquet": lambda: parquet({name: [row.get(name) for row in ROWS] for name in NAMES}),
    "floats.parquet": lambda: parquet(
        {**{n: [r.get(n) for r in ROWS] for n in NAMES}, "age": [22.0, None, 30.0]}
    ),
    "t.jsonl": lambda: "\n\n".join(json.dumps(row) for row in ROWS).encode(),
    "t.jsonl.gz": lambda: gzip.compress("\n".join(json.dumps(row) for row in ROWS).encode()),
    "t.ndjson": lambda: "\r\n".join(json.dumps(row) for row in ROWS).encode(),
    "lines.json": lambda: "\n".join(json.dumps(row) for row in ROWS).encode(),
    "array.json": lambda: json.dumps(ROWS, indent=1).encode("utf-8-sig"),
    "t.xlsx": lambda: workbook(
        [[], list(NAMES), *[[row.get(name) for name in NAMES] for row in ROWS], []]
    ),
}


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: bytes):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_of_file_gives_the_same_table(name, write, caplog):
    table = read_table(write(name, MAKERS[name]()))
    as_text = {key: [None if c is None else str(c) for c in cells] for key, cells in table.items()}
    assert {key: as_text[key] for key in NAMES} == {
        "id": ["1", "2", "3"],
        "age": ["22", None, "30"],
        "name": ["Ann", "Bob", "Zoë"],
        "price": ["1.5", "2.25", "7.75"],
    }
    assert not caplog.records
    assert {c.name: c.kind for c in infer_schema(table).columns}["age"] == "numeric"


def test_typed_cells_keep_their_type(write):
    when = datetime.datetime(2012, 3, 14, 13, 5)
    rows = [["when", "flag", "n", None], [when, True, 1.0, None], ["soon", None, 2.5, None]]
    for name, raw in (
        ("t.xlsx", workbook(rows)),
        ("t.parquet", parquet({"when": [when, None], "flag": [True, None], "n": [1.0, 2.5]})),
    ):
        table = read_table(write(name, raw))
        assert list(table) == ["when", "flag", "n"]
        assert [cells[0] for cells in table.values()] == [when, True, 1.0]


def test_nested_values_become_json_text_and_are_counted(write, caplog):
    rows = b'{"a": ["x", "\xc3\xa4"], "b": 1}\n{"a": {"k": null}, "b": Infinity}\n{"b": NaN}\n'
    path = write("t.jsonl", rows)
    with caplog.at_level(logging.WARNING):
        table = read_table(path)
    assert table == {"a": ['["x", "ä"]', '{"k": null}', None], "b": [1, float("inf"), None]}
    said = f"{path}: column 'a': lists or objects in 2 cells, read as JSON text"
    assert caplog.messages == [said]
    assert read_table(write("t.parquet", parquet({"a": [[1, 2], None]})))["a"] == ["[1, 2]", None]


def test_the_sheets_that_are_not_read_are_named(write, caplog):
    path = write("t.xlsx", workbook([["a"], [1]], "prices", "notes"))
    with caplog.at_level(logging.WARNING):
        assert read_table(path) == {"a": [1]}
    assert caplog.messages == [
        f"{path}: read the first sheet, 'Sheet'; not read: 'prices', 'notes'"
    ]


BAD = {
    "two.zip": (
        lambda: zipped(**{"a.csv": CSV, "b.parquet": b""}),
        "has 2 tables: a.csv, b.parquet; unpack it, then give the one table to read",
    ),
    "none.zip": (
        lambda: zipped(**{"readme.md": b""}),
        "has no table: readme.md; unpack it, then give the one table to read",
    ),
    "empty.zip": (zipped, "has no table; unpack it, then give the one table to read"),
    "cut.zip": (
        lambda: zipped(**{"a.csv": CSV})[:-30],
        "cannot unpack this zip archive (damaged: File is not a zip file)",
    ),
    "text.zip": (
        lambda: CSV,
        "text, not a zip archive; rename it so that it ends in .csv if it is delimited text",
    ),
    "book.zip": (
        lambda: workbook([["a"], [1]]),
        "an Excel workbook, not a zip archive with a table in it; rename it so that it ends in "
        ".xlsx",
    ),
    "text.csv.gz": (
        lambda: CSV,
        "text, not a gzip file; rename it so that it ends in .csv if it is delimited text",
    ),
    "cut.csv.gz": (
        lambda: gzip.compress(CSV)[:-9],
        "damaged gzip file (Compressed file ended before the end-of-stream marker was reached); "
        "download it again",
    ),
    "empty.csv.gz": (
        lambda: gzip.compress(b""),
        "the file is empty; a CSV file starts with a line of names",
    ),
    "gz.csv": (
        lambda: gzip.compress(CSV),
        "a gzip file, not a CSV file; rename it so that it ends in .gz",
    ),
    "book.csv": (
        lambda: workbook([["a"], [1]]),
        "an Excel workbook, not a CSV file; rename it so that it ends in .xlsx",
    ),
    "page.csv": (
        lambda: b"\n<!DOCTYPE html><html>",
        "an HTML page, not a CSV file; download it again: it may be a login or error page",
    ),
    "page.parquet": (
        lambda: b"<html>",
        "an HTML page, not a parquet file; download it again: it may be a login or error page",
    ),
    "lfs.csv": (
        lambda: LFS,
        "a Git LFS pointer, not a CSV file; fetch the file itself: git lfs pull",
    ),
    "lfs.xlsx": (
        lambda: LFS,
        "a Git LFS pointer, not an Excel workbook; fetch the file itself: git lfs pull",
    ),
    "lines.csv": (
        lambda: b'{"a": 1, "b": 2}\n{"a": 3}\n',
        "JSON, not a CSV file; rename it so that it ends in .jsonl or .json",
    ),
    "parquet.jsonl": (
        lambda: b"PAR1..",
        "a parquet file, not a JSON file; rename it so that it ends in .parquet",
    ),
    "zip.xlsx": (
        lambda: zipped(**{"a.csv": CSV}),
        "a zip archive, not an Excel workbook; unpack or convert it first",
    ),
    "old.xls": (
        lambda: b"\xd0\xcf\x11\xe0....",
        "an old Excel file, not a CSV file; save it as .xlsx or CSV",
    ),
    "binary.parquet": (
        lambda: b"\0\1\2",
        "unknown data, not a parquet file; check how it was made, or download it again",
    ),
    "cut.xlsx": (
        lambda: workbook([["a"], [1]])[:-300],
        "damaged Excel workbook (File is not a zip file); save it again",
    ),
    "wide.xlsx": (
        lambda: workbook([["a"], [1], [1, 2]]),
        "row 3: 2 cells, but the header in row 1 has 1 columns; name every column in the first row",
    ),
    "twice.xlsx": (
        lambda: workbook([["a", "a"], [1, 2]]),
        "row 1: column name 'a' occurs twice (columns 1 and 2); rename one",
    ),
    "formula.xlsx": (
        lambda: workbook([["a"], ["=1+1"]]),
        "row 2, column 1: the formula '=1+1' has no stored value; open the file in a spreadsheet "
        "program and save it",
    ),
    "blank.xlsx": (
        lambda: workbook([]),
        "the first sheet is empty; it should start with column names",
    ),
    "broken.jsonl": (
        lambda: b'{"a": 1}\n\n{"a":\n',
        "row 3: not JSON (Expecting value: line 1 column 6 (char 5)); each row is an object of "
        "column names and cells",
    ),
    "list.jsonl": (
        lambda: b'{"a": 1}\n[1]\n',
        "row 2: list, not an object of column names and cells",
    ),
    "number.json": (
        lambda: b'[{"a": 1}, 5]',
        "record 2: int, not an object of column names and cells",
    ),
    "twice.jsonl": (
        lambda: b'{"a": 1, "a": 2}\n',
        "row 1: not JSON (the key 'a' occurs twice); each row is an object of column names and "
        "cells",
    ),
    "half.jsonl": (
        lambda: b'{"a": "\\ud800"}\n',
        "row 1: not JSON ('utf-8' codec can't encode character '\\ud800' in position 7: "
        "surrogates not allowed); each row is an object of column names and cells",
    ),
    "empty.jsonl": (lambda: b"\n", "the file is empty; it should have one JSON object per line"),
    "empty.parquet": (lambda: b"", "the file is empty; it should be a parquet file"),
    "bytes.parquet": (
        lambda: parquet({"a": [b"x"]}),
        "column 'a', row 1: a cell is text, a number, a boolean, a date or None, not bytes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_not_what_they_say_get_one_line(name, write):
    make, message = BAD[name]
    path = write(name, make())
    with pytest.raises(TableError) as error:
        read_table(path)
    assert str(error.value) == f"{path}: {message}"


def test_a_damaged_parquet_file_gets_one_line(write):
    path = write("cut.parquet", parquet({"a": [1]})[:-20])
    with pytest.raises(TableError, match=r"cut.parquet: damaged parquet file \(.{1,80}\)$"):
        read_table(path)


def test_rows_are_named_inside_archives(write):
    path = write("t.zip", zipped(**{"a.csv": b"a,b\n1\n"}))
    with pytest.raises(TableError) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path} (a.csv): row 2: 1 cells, but the header has 2")


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        (
            "t.parquet",
            "pyarrow",
            "a parquet file needs pyarrow; pip install 'mlx-tabtext[parquet]'",
        ),
        ("t.xlsx", "openpyxl", "an Excel workbook needs openpyxl; pip install 'mlx-tabtext[xlsx]'"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(name, module, message, write, monkeypatch):
    path = write(name, MAKERS[name]())
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TableError) as error:
        read_table(path)
    assert str(error.value) == f"{path}: {message}"
