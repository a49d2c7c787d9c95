"""Every file format gives the same rows, each with its place."""

import csv
import gzip
import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from mlx_gpt.data.rows import iterate_rows, read_rows
from mlx_gpt.data.splits import find_splits

ROWS = [
    {"prompt": "a", "completion": "b\nc"},
    {"prompt": 'é "quoted"', "completion": "d,e"},
    {"prompt": "f", "completion": "g"},
]


def write(path, rows):
    """Write rows in the format of the file's name."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if ".csv" in path.name:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
    elif ".jsonl" in path.name:
        content = "".join(json.dumps(each) + "\n\n" for each in rows).encode()
    else:
        content = json.dumps(rows, indent=2, ensure_ascii=False).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("rows.jsonl", ["line 1", "line 3", "line 5"]),
        ("rows.jsonl.gz", ["line 1", "line 3", "line 5"]),
        ("rows.json", ["line 2", "line 6", "line 10"]),
        ("rows.json.gz", ["line 2", "line 6", "line 10"]),
        ("rows.csv", ["line 2", "line 4", "line 5"]),
        ("rows.csv.gz", ["line 2", "line 4", "line 5"]),
        ("rows.parquet", ["row 1", "row 2", "row 3"]),
    ],
)
def test_every_format_gives_the_same_rows_with_their_places(tmp_path, name, places):
    path = write(tmp_path / name, ROWS)
    assert list(read_rows(path)) == [
        (f"{path}, {place}", row) for place, row in zip(places, ROWS, strict=True)
    ]


def test_a_text_file_is_one_row_and_nested_columns_are_objects(tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes(b"\xef\xbb\xbfone\n\ntwo\n")
    assert list(read_rows(text)) == [(f"{text}, line 1", {"text": "one\n\ntwo\n"})]
    messages = [{"role": "user", "content": "a"}]
    table = write(tmp_path / "rows.csv", [{"messages": json.dumps(messages), "gold": 1}])
    assert [row for _, row in read_rows(table)] == [{"messages": messages, "gold": 1}]
    # In parquet each message has the keys of all.
    called = {"role": "assistant", "tool_calls": [{"name": "f"}]}
    nested = write(tmp_path / "rows.parquet", [{"messages": [*messages, called]}])
    assert [row for _, row in read_rows(nested)] == [{"messages": [*messages, called]}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[\n{"a": 1},\n{"a" 2},\n{"a": 3}]', ", line 3: not JSON (Expecting ':' "
         "delimiter: line 3 column 6 (char 17)); the rest cannot be read"),
        ("a.json", b'[{"a": 1}\n{"a": 2}]', ", line 2: expected a comma or the end of the array; "
         "a file holds one array, or an object in each line"),
        ("a.json", b'[{"a": 1}]\n[{"a": 2}]', ", line 2: expected a comma or the end of the array; "
         "a file holds one array, or an object in each line"),
        ("a.json", b'[{"a": 1},', ", line 1: not JSON (Expecting value: line 1 column 11 (char "
         "10)); the rest cannot be read"),
        ("a.json", b'[\n{"a": "\xff"}]', ", line 2: not JSON ('utf-8' codec can't decode byte 0xff "
         "in position 9: invalid start byte)"),
        ("a.json", b" [ ] ", ": no rows; expected one JSON object per line"),
        ("a.csv", b"a,b\n", ": no rows; expected at least one"),
        ("a.csv", b"a,a\n1,2\n", ", line 1: two columns have the same name"),
        ("a.jsonl.gz", b"nonsense", ": damaged gzip file (Not a gzipped file (b'no'))"),
        ("a.txt", b"\xff", ": not UTF-8 text ('utf-8' codec can't decode byte 0xff in position 0: "
         "invalid start byte)"),
        ("a.parquet", b"nonsense", ": not parquet (Parquet magic bytes not found in footer. Either "
         "the file is corrupted or this is not a parquet file.)"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a") as caught:
        list(iterate_rows(path))
    assert str(caught.value) == f"{path}{message}"


def test_rows_after_a_malformed_one_are_read(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"a": 1}\n{"a": \xff}\n{"a": NaN}\n{"a": 1, "a": 2}\n[1]\n{"a": 2}\n')
    found = list(iterate_rows(lines))
    assert [row.value.get("a") for row in found] == [1, None, None, None, None, 2]
    assert [row.problem[:40] for row in found[1:5]] == [
        "not JSON ('utf-8' codec can't decode byt", "NaN is not JSON", "the key 'a' is there twice",
        "expected a JSON object, got list",
    ]  # fmt: skip
    array = tmp_path / "a.json"
    array.write_text('[{"a": 1, "a": 2},\n 7,\n{"a": 3}]')
    assert [(row.where[-6:], row.problem) for row in iterate_rows(array)] == [
        ("line 1", "the key 'a' is there twice"), ("line 2", "expected a JSON object, got int"),
        ("line 3", ""),
    ]  # fmt: skip
    table = tmp_path / "a.csv"
    table.write_bytes(b'text\na,b\n\xff\n"c"\n')
    assert [(row.where[-6:], row.problem) for row in iterate_rows(table)] == [
        ("line 2", "2 cells, but the header has 1"), ("line 3", "not UTF-8"), ("line 4", ""),
    ]  # fmt: skip


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl: no such file"):
        list(iterate_rows(tmp_path / "a.jsonl"))
    with pytest.raises(FileNotFoundError, match="a folder, not a file"):
        list(iterate_rows(tmp_path))


def test_a_folder_has_splits(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no train file: expected train\.jsonl"):
        find_splits(tmp_path)
    for name in ("train.jsonl", "validation.csv", "notes.txt"):
        (tmp_path / name).touch()
    assert find_splits(tmp_path) == {
        "train": tmp_path / "train.jsonl", "valid": tmp_path / "validation.csv",
    }  # fmt: skip
    (tmp_path / "valid.jsonl").touch()
    with pytest.raises(ValueError, match=r"both valid\.jsonl and validation\.csv exist"):
        find_splits(tmp_path)
