import json
import pickle
from pathlib import Path

import pytest
import tiktoken
from click.testing import CliRunner, Result

from mlx_gpt.commands.tokenizer import tokenizer as command
from mlx_gpt.tokenizer import SPECIALS, SPLIT_PATTERN, Tokenizer
from mlx_gpt.tokenizer.compression import format_table, load_reference, measure, report

# Compression


def test_compression_counts_bytes_of_utf8_and_compares_with_the_first():
    ours = Tokenizer.from_ranks(
        {bytes([byte]): byte for byte in range(256)} | {b"ab": 256}, SPLIT_PATTERN
    )
    letters = [[0] * len(text) for text in ("ab", "ééab")]
    rows = measure(
        {"ours": ours.encode_batch, "letters": lambda texts: letters}, {"x": ["ab", "ééab"]}
    )
    assert [(row.tokenizer, row.bytes, row.tokens) for row in rows] == [
        ("ours", 8, 6),
        ("letters", 8, 6),
    ]
    rows = measure({"ours": ours.encode_batch, "bytes": lambda texts: [[0] * 8]}, {"x": ["abab"]})
    assert [row["more_tokens"] for row in report(rows)] == [0, 3]
    assert format_table(rows) == (
        "text  tokenizer  bytes  tokens  bytes/token  tokens vs first\n"
        "x     ours           4       2        2.000\n"
        "x     bytes          4       8        0.500          +300.0%"
    )
    with pytest.raises(ValueError, match="x: no text to measure compression on"):
        measure({"ours": ours.encode_batch}, {"x": [""]})


def test_an_unknown_reference_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"tokenizer 'gpt9' is unknown; write NAME=PATH.*gpt2"):
        load_reference("gpt9")


# The commands


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texts) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    (folder / "b.txt").write_text("zzzz yyyy. " * 2000)
    result = run("train", folder, "-o", folder / "tokenizer", "--vocab-size", 300)
    assert result.exit_code == 0, result.output
    characters = sum(map(len, texts))
    first, _, row = result.stdout.splitlines()
    assert first.startswith(
        f"{folder / 'tokenizer'}: 300 tokens, 9 of them special; {characters:,} characters read, "
    )
    assert row.startswith("held out: b.txt  this       22,000  ")
    return folder


def test_the_last_shard_is_held_out_unless_told_otherwise(folder, texts, tmp_path):
    expected = Tokenizer.train(texts, 300)
    assert Tokenizer.load(folder / "tokenizer").encode(texts[0]) == expected.encode(texts[0])
    result = run("train", folder, "-o", tmp_path, "--vocab-size", 300, "--use-all")
    assert "training text  this" in result.stdout
    with_all = Tokenizer.load(tmp_path).encode("zzzz yyyy. ")
    assert len(with_all) < len(expected.encode("zzzz yyyy. "))


def test_one_shard_is_trained_on_unless_it_is_to_be_held_out(folder, tmp_path):
    assert run("train", folder / "a.jsonl", "-o", tmp_path, "--vocab-size", 280).exit_code == 0
    result = run("train", folder / "a.jsonl", "-o", tmp_path / "b", "--hold-out-last")
    assert "cannot hold out 1 of 1 shards for validation" in str(result.exception)


def test_caps_and_pattern_reach_the_training(folder, texts, tmp_path):
    result = run(
        "train", folder, "-o", tmp_path, "--vocab-size", 280, "--max-chars", "1k",
        "--max-document-chars", 10, "--pattern", r"[a-z]+",
    )  # fmt: skip
    assert "; 1,000 characters read, all that --max-chars allows, " in result.stdout
    documents = [text[:10] for text in texts[:100]]
    expected = Tokenizer.train(documents, 280, r"[a-z]+")
    assert Tokenizer.load(tmp_path).encode(texts[0]) == expected.encode(texts[0])


def test_an_existing_tokenizer_is_kept(folder):
    before = (folder / "tokenizer" / "tokenizer.json").read_bytes()
    arguments = ("train", folder, "-o", folder / "tokenizer", "--vocab-size", 280)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "contains a tokenizer, which models trained with it need" in result.output
    assert (folder / "tokenizer" / "tokenizer.json").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "number"), [("2B", 2 * 10**9), ("1.5m", 1_500_000), ("10_000", 10_000), ("7k", 7000)]
)
def test_counts_have_units(text, number):
    from mlx_gpt.commands.tokenizer import Count

    assert Count().convert(text, None, None) == number


@pytest.mark.parametrize("text", ["", "B", "-3", "0", "2 billion", "nan"])
def test_what_is_no_count_is_a_usage_error(folder, tmp_path, text):
    result = run("train", folder, "-o", tmp_path, "--max-chars", text)
    assert result.exit_code == 2
    assert "is not a positive number such as 50000, 500M or 2B" in result.output


def test_report_compares_files(folder):
    mine = folder / "tokenizer"
    result = run("report", mine, folder / "a.jsonl", folder / "b.txt", "--json", "--compare",
                 f"same={mine}")  # fmt: skip
    rows = json.loads(result.stdout)
    assert [(row["source"], row["tokenizer"]) for row in rows] == [
        ("a.jsonl", "this"), ("a.jsonl", "same"), ("b.txt", "this"), ("b.txt", "same"),
    ]  # fmt: skip
    assert rows[2]["bytes"] == 22_000
    assert rows[2]["tokens"] == len(Tokenizer.load(mine).encode("zzzz yyyy. " * 2000))
    assert rows[2]["bytes_per_token"] == pytest.approx(22_000 / rows[2]["tokens"])
    assert rows[3]["more_tokens"] == 0


def test_report_refuses_what_it_cannot_compare_with(folder):
    mine = folder / "tokenizer"
    result = run("report", mine, folder / "b.txt", "--compare", f"this={mine}")
    assert result.exit_code == 2
    assert "there is a tokenizer 'this' already" in result.output
    result = run("report", mine, folder / "b.txt", "--compare", "x=nowhere")
    assert str(result.exception) == "no tokenizer: nowhere does not exist"


def test_an_encoding_that_cannot_be_had_is_left_out_by_a_line(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    result = run("report", folder / "tokenizer", folder / "b.txt", "--compare", "r50k_base")
    assert result.stderr == "skipped: tokenizer r50k_base: tiktoken cannot download its file\n"
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2


def test_show_prints_ids_and_pieces(folder):
    result = run("show", folder / "tokenizer", "z\n<|bos|>")
    lines = result.stdout.splitlines()
    assert lines[:2] == ["    122    1  z", "     10    1  \\n"]
    assert lines[-1].startswith(f"{len(lines) - 1} tokens, 9 bytes, ")


def test_convert_reads_the_pickle_only_when_unsafe(tmp_path):
    ranks = {bytes([byte]): byte for byte in range(256)}
    specials = {name: 256 + place for place, name in enumerate(SPECIALS)}
    encoding = tiktoken.Encoding(
        "nanochat", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=specials
    )
    absent = run("convert", tmp_path, "-o", tmp_path / "out").exception
    assert str(absent) == f"{tmp_path / 'tokenizer.pkl'}: no such file"
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    assert "--unsafe" in str(run("convert", tmp_path, "-o", tmp_path / "out").exception)
    result = run("convert", tmp_path, "-o", tmp_path / "out", "--unsafe")
    assert result.stdout == f"{tmp_path / 'out'}: 265 tokens\n"
    assert Tokenizer.load(tmp_path / "out").special("<|output_end|>") == 264
