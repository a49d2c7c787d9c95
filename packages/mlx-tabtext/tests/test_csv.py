import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tabtext import TableError, read_csv


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "train.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_is_found(write, separator):
    lines = [["id", "note", "x"], ["1", '"a, b; c | d"', "2"], ["2", "plain", ""]]
    path = write("\n".join(separator.join(line) for line in lines))
    assert read_csv(path) == {
        "id": ["1", "2"],
        "note": ["a, b; c | d", "plain"],
        "x": ["2", None],
    }


def test_one_column_needs_no_separator(write):
    assert read_csv(write("text\nhello\nworld\n")) == {"text": ["hello", "world"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_encodings_are_read(write, encoding, caplog):
    path = write("name,city\nZoë,東京\n".encode(encoding))
    assert read_csv(path) == {"name": ["Zoë"], "city": ["東京"]}
    assert not caplog.records


def test_windows_text_is_read_with_a_warning(write, caplog):
    path = write("name,price\nZoë,5€\n".encode("cp1252"))
    with caplog.at_level(logging.WARNING):
        assert read_csv(path) == {"name": ["Zoë"], "price": ["5€"]}
    assert caplog.messages == [f"{path}: row 2 is not UTF-8; read as Windows-1252"]


def test_line_breaks_in_quotes_and_blank_lines_are_fine(write):
    path = write('id,text\r\n1,"two\r\nlines ""quoted"""\r\n\r\n2,b\r\n')
    assert read_csv(path) == {"id": ["1", "2"], "text": ['two\r\nlines "quoted"', "b"]}


def test_header_only_gives_no_rows(write):
    assert read_csv(write("a,b\n")) == {"a": [], "b": []}


def test_nameless_index_column_gets_a_name(write):
    assert list(read_csv(write(",a\n0,x\n"))) == ["Unnamed: 0", "a"]


def test_cells_longer_than_the_csv_module_allows_are_read(write):
    cell = "word " * 40_000
    assert read_csv(write(f"id,text\n1,{cell}\n"))["text"] == [cell]


BAD = {
    "empty": ("", "the file is empty; a CSV file starts with a line of names"),
    "ragged": (
        'a,b\n1,"x\ny"\n1,2,3\n',
        "row 4: 3 cells, but the header has 2 columns; put cells that contain ',' in double quotes",
    ),
    "short": (
        "a,b\n1,2\n3\n",
        "row 3: 1 cells, but the header has 2 columns; put cells that contain ',' in double quotes",
    ),
    "twice": (
        "a,b,a\n1,2,3\n",
        "row 1: column name 'a' occurs twice (columns 1 and 3); rename one",
    ),
    "open": (
        'a,b\n1,"x\ny\nz\n',
        "row 2: a double quote opens here and is never closed",
    ),
    "quoting": (
        'a,b\n1,"x"y\n',
        "row 2: badly quoted cell (',' expected after '\"'); write a quote inside a quoted cell "
        "twice",
    ),
    "nul": (
        "a,b\n1,\0\n",
        "row 2: a NUL byte; this is a binary file or a damaged CSV",
    ),
    "undecodable": (
        b"a,b\n1,\x81\n",
        "row 2: neither UTF-8 nor Windows-1252 text; save the file as UTF-8, or check that it is "
        "a CSV file",
    ),
    "zip": (b"PK\x03\x04...", "a zip archive, not a CSV file; unpack or convert it first"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_say_where_and_what_to_do(write, case):
    content, message = BAD[case]
    path = write(content)
    with pytest.raises(TableError) as error:
        read_csv(path)
    assert str(error.value) == f"{path}: {message}"


def test_wrong_paths_are_named(write, tmp_path):
    write("a\n1\n")
    with pytest.raises(TableError) as error:
        read_csv(tmp_path / "trian.csv")
    assert str(error.value) == f"{tmp_path / 'trian.csv'}: no such file; did you mean 'train.csv'?"
    with pytest.raises(TableError) as error:
        read_csv(tmp_path)
    assert str(error.value) == f"{tmp_path}: a directory; give the CSV file in it"


@given(
    rows=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"))] * 2),
        min_size=1,
        max_size=6,
    )
)
def test_any_text_survives_a_quoted_file(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "any.csv"
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.write_bytes("\n".join(["a,b", *quoted]).encode())
    table = read_csv(path, separator=",")
    assert list(zip(*table.values(), strict=True)) == [
        tuple(cell or None for cell in row) for row in rows
    ]
