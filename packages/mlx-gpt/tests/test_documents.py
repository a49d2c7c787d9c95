"""Own text: nothing of a file is lost, documents are of a useful size, files are never silent."""

import gzip
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_gpt.data import documents
from mlx_gpt.data.documents import PlainText, find_files, find_text, hold_out, read_files
from mlx_gpt.tokenizer.training import split_text
from mlx_shards import CorruptShard, ReadOptions, write_shards

SCRAPS = st.lists(
    st.sampled_from(
        ["word ", "x", "End. ", "»Ja!« ", "\n", "\r\n", "\r", "\n\n", "\r\n \r\n", "\f", "\t", " ",
         "東京。", "é", "\ufeff", "\u2028", "🦊", "\x00", "....", "<|bos|>"]
    ),
    max_size=200,
)  # fmt: skip
LINES = "".join(f"Line {i} of a play, which is not long.\n" for i in range(1000))


@given(SCRAPS, st.integers(1, 30))
@example(["word "] * 200, 1)
def test_pieces_joined_are_the_text_and_have_the_asked_size(scraps, enough):
    text = "".join(scraps)
    pieces = list(split_text(text, enough))
    assert "".join(pieces) == text
    assert all(enough <= len(piece) <= 2 * enough + 1 for piece in pieces[:-1])
    if pieces:
        assert len(pieces[-1]) <= 2 * enough + 1
        assert len(pieces) == 1 or len(pieces[-1]) >= enough // 2 - 1


@given(
    SCRAPS | st.lists(st.sampled_from(["x" * 8, "x", "\n"])), st.integers(1, 30), st.integers(1, 50)
)
def test_pieces_do_not_depend_on_the_parts_that_a_text_comes_in(scraps, enough, size):
    text = "".join(scraps)
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    assert list(split_text(parts, enough)) == list(split_text(text, enough))


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (LINES.replace("9 of", "9 of\n \nthe"), r"\n \n"),
        (LINES, r"\n"),
        (LINES.replace("\n", "\r\n"), r"\r\n"),
        (LINES.replace("\n", "\r"), r"\r"),
        (LINES.replace("\n", " "), r"long\. "),
        (LINES.replace("\n", " ").replace(".", ""), r" "),
        ("東京は遠い。" * 5000, r"。"),
        (LINES.replace(".\n", ".\f"), r"\f"),
    ],
)
def test_a_text_is_cut_at_blank_lines_else_lines_else_sentences_else_spaces(text, end):
    *pieces, _ = split_text(text)
    assert len(pieces) > 3
    for piece in pieces:
        assert re.search(rf"{end}\Z", piece), piece[-40:]
        assert len(piece) < 4500


def test_a_blank_line_counts_only_where_a_document_is_long_enough_and_not_too_long():
    paragraph = "x" * 1999 + "\n\n"
    assert [len(piece) for piece in split_text(paragraph * 6)] == [4002, 4002, 4002]
    assert [len(piece) for piece in split_text("x" * 4999 + "\n" + "y" * 4000 + "\n\n")] == [
        5000, 4002
    ]  # fmt: skip


def test_one_line_of_3_mb_has_documents_of_a_useful_size():
    pieces = list(split_text("x" * 3_000_000))
    assert {len(piece) for piece in pieces} == {8000}
    assert sum(map(len, pieces)) == 3_000_000


@given(SCRAPS, st.booleans(), st.booleans())
def test_a_file_read_in_any_order_is_the_file_without_its_mark(tmp_path_factory, scraps, mark, zip):
    text = "".join(scraps).lstrip("\ufeff")
    data = ("\ufeff" * mark + text).encode()
    path = tmp_path_factory.mktemp("text") / ("a.txt.gz" if zip else "a.txt")
    path.write_bytes(gzip.compress(data) if zip else data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_CHUNK", 7)  # cuts characters
        patch.setattr(documents, "_BLOCK", 3)
        patch.setattr(split_text, "__defaults__", (10,))
        reader = PlainText(path, ReadOptions())
        blocks = {i: reader.read(i) for i in reversed(range(len(reader.sizes)))}
        reader.close()
    assert [len(blocks[i]) for i in sorted(blocks)] == reader.sizes
    assert "".join(text for i in sorted(blocks) for text in blocks[i]) == text


def test_files_of_several_kinds_are_read_in_order(tmp_path):
    (tmp_path / "a.TXT").write_bytes("\ufeffone\r\n\r\ntwo".encode())
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n{"text": "four"}\n')
    for name in ("c.md", "d.text", "e.Markdown"):
        (tmp_path / name).write_text(name)
    (tmp_path / "f.md.gz").write_bytes(gzip.compress(b"packed"))
    write_shards(["five"], tmp_path / "g")
    shards = find_files([tmp_path, tmp_path / "g"])
    done: list[int] = []
    texts = list(read_files(shards, after_file=lambda: done.append(1)))
    expected = ["one\r\n\r\ntwo", "three", "four", "c.md", "d.text", "e.Markdown", "packed", "five"]
    assert texts == expected
    assert len(done) == 7


@pytest.mark.parametrize("find", [find_text, lambda where, **more: find_files([where], **more)])
def test_what_is_not_read_in_a_folder_is_named(tmp_path, find):
    for name in ("a.txt", "b.pdf", "c.docx", ".hidden", "e.html"):
        (tmp_path / name).write_text("x")
    (tmp_path / "more").mkdir()
    notes: list[str] = []
    assert [shard.name for shard in find(str(tmp_path), note=notes.append)] == ["a.txt"]
    assert notes == [f"{tmp_path}: ignored 4 files: b.pdf, c.docx, e.html, more/"]


def test_files_without_text_are_skipped_with_a_note_unless_all_are(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    empty = {"b.txt": b"", "c.txt": b"\xef\xbb\xbf\n \n", "d.parquet": b"", "e.jsonl": b"\n"}
    for name, data in empty.items():
        (tmp_path / name).write_bytes(data)
    notes: list[str] = []
    found = find_files([tmp_path], note=notes.append)
    assert [shard.name for shard in found] == ["a.txt"]
    names = ", ".join(str(tmp_path / name) for name in empty)
    assert notes == [f"skipped, because there is no text in 4 files: {names}"]
    with pytest.raises(ValueError, match=rf"^no text in 1 file: {tmp_path / 'b.txt'}$"):
        find_files([tmp_path / "b.txt"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("é".encode() * 3 + "fähre".encode("latin-1"), "byte 7: invalid continuation byte"),
        ("fähre".encode("utf-16"), "byte 0: invalid start byte"),
        ("é".encode()[:1], "byte 0: unexpected end of data"),
    ],
)
def test_text_in_another_encoding_is_refused_with_the_place(tmp_path, data, message):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    expected = re.escape(f"{path}: not UTF-8 text: {message}; save it as UTF-8")
    with pytest.raises(CorruptShard, match=f"^{expected}$"):
        find_files([path])


def test_a_damaged_gzip_is_refused_with_its_path(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"some text" * 50)[:-9])
    with pytest.raises(CorruptShard, match=rf"^{path}: Compressed file ended"):
        find_files([path])


def texts_of(name: str, count: int) -> tuple[str, list[str]]:
    return name, [f"{name} {i}" for i in range(count)]


def test_the_end_of_a_plain_text_is_held_out_and_any_documents_of_other_files():
    files = [texts_of("a.txt", 100), texts_of("b.jsonl", 60)]
    train, held = hold_out(files, seed=0)
    assert held[:5] == [f"a.txt {i}" for i in range(95, 100)]
    assert len(held) == 8
    assert held[5:] != [f"b.jsonl {i}" for i in range(57, 60)]
    assert sorted(train + held) == sorted([*texts_of("a.txt", 100)[1], *texts_of("b.jsonl", 60)[1]])


def test_of_many_small_files_one_in_20_is_held_out():
    _, held = hold_out([texts_of(f"{i}.txt", 1) for i in range(100)], seed=0)
    assert held == [f"{i}.txt 0" for i in (19, 39, 59, 79, 99)]


def test_a_text_of_few_documents_is_split_further_to_hold_some_out():
    text = LINES[:2000]
    train, held = hold_out([("a.txt", [text])], seed=0)
    assert text.endswith("".join(held))
    assert sorted("".join(train + held)) == sorted(text)
    assert 0.01 * len(text) < len("".join(held)) < 0.1 * len(text)
