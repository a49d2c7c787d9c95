import gzip
import json
from pathlib import Path

import pytest

from mlx_encoders.text_files import read_texts

TEXTS = ["First line\nsecond line", "Café 12", ""]


def write_jsonl(path: Path, rows) -> Path:
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl_rows_are_documents(tmp_path, name):
    path = write_jsonl(tmp_path / name, [{"text": text, "id": 1} for text in TEXTS])
    assert list(read_texts([path])) == TEXTS
    assert list(read_texts([str(path)] * 2)) == TEXTS * 2


def test_parquet_rows_are_documents(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": [1, 2, 3], "body": TEXTS}), path, row_group_size=2)
    assert list(read_texts([path], column="body")) == TEXTS
    with pytest.raises(ValueError, match=r"a\.parquet: no column 'text', got \['id', 'body'\]$"):
        list(read_texts([path]))
    parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(
        ValueError, match=r"a\.parquet: 'text' in row 2 must be text, got NoneType$"
    ):
        list(read_texts([path]))
    path.write_bytes(b"PAR1 not parquet")
    with pytest.raises(ValueError, match=r"a\.parquet is damaged or not a parquet file"):
        list(read_texts([path]))


def test_blank_lines_end_the_documents_of_a_text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\nOne\ntwo\n \n\nthree", encoding="utf-8")
    assert list(read_texts([path])) == ["One\ntwo\n", "three"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "text files must be .txt, .jsonl, .jsonl.gz, .parquet"),
        ("a.jsonl", b'{"text": "a"}\n{', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"body": "a"}', r"a.jsonl:1: no key 'text', got \['body'\]"),
        ("a.jsonl", b'["a"]', "a.jsonl:1: no key 'text', got list"),
        ("a.jsonl", b'{"text": 3}', "a.jsonl: 'text' in line 1 must be text, got int"),
        ("a.txt", b"\xff\xfe", "a.txt is not UTF-8 text or is damaged"),
        ("a.jsonl.gz", b"{}", "a.jsonl.gz is not UTF-8 text or is damaged"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_texts([path]))


def test_a_missing_file_is_named_before_any_is_read(tmp_path):
    good = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    texts = read_texts([good, tmp_path / "b.txt"])
    with pytest.raises(FileNotFoundError, match=r"^no file '.*b\.txt'$"):
        next(texts)
