"""A row that cannot be used is named, or skipped, counted, told of and remembered."""

import json
import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlx_shards import (
    Cache,
    CorruptShard,
    Flat,
    Piece,
    Reference,
    RowError,
    ShardError,
    Source,
    StreamConfig,
    TokenStream,
    local_shards,
    read_documents,
    register_format,
    write_token_bin,
)

CONFIG = StreamConfig(
    24, 1, bos_id=0, packing="pad", shuffle=False, epochs=1, last_batch="pad", oversize="split"
)
SKIP = replace(CONFIG, on_error="skip")
BAD_LINES = {
    "not json": "not JSON: Expecting value: line 1 column 1 (char 0)",
    '{"text": "cut': "not JSON: Unterminated string starting at: line 1 column 10 (char 9)",
    "3": "not a JSON object",
    '{"t": 1, "u": 2}': "no text under 'text'; its keys: t, u",
    '{"text": null}': "no text under 'text'; its keys: text",
    "[" * 100_000: "not JSON: maximum recursion depth exceeded while decoding a JSON array",
}


def write_lines(path, *texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def texts_of(stream, texts_in):
    return texts_in([b.inputs[0][b.document_ids[0] == 1] for b in stream])[1:]


def stream_of(path, tokenize, config=CONFIG, **options):
    return TokenStream(local_shards(path), tokenize, config, arrays="numpy", **options)


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_by_its_number_in_the_file(tmp_path, tokenize, exactly, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "one"}}\n\n\n{line}\n')
    with pytest.raises(ShardError) as caught:
        list(stream_of(path, tokenize))
    assert str(caught.value).startswith(f"{path}: line 4: {reason}")
    with pytest.raises(ShardError, match=rf"line 4: {reason[:8]}"):
        list(read_documents(local_shards(path)))


def test_what_is_no_utf_8_is_named(tmp_path, tokenize):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(CorruptShard, match="line 1: not JSON: 'utf-8' codec can't decode"):
        list(stream_of(path, tokenize))
    path = tmp_path / "a.parquet"
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )
    pq.write_table(pa.table({"text": bad}), path)
    with pytest.raises(CorruptShard, match="row 1: not UTF-8: 'utf-8' codec can't decode"):
        list(stream_of(path, tokenize))


def test_a_row_of_parquet_without_text_is_named(tmp_path, parquet, tokenize, exactly):
    path = parquet(tmp_path / "a.parquet", ["x"] * 20 + [None], group=8)
    message = f"{path}: row 21: no text in column 'text'"
    with pytest.raises(RowError, match=exactly(message)):
        list(stream_of(path, tokenize))


def failing(tokenize, *bad):
    def encode(texts):
        if set(bad) & set(texts):
            raise KeyError("no such piece")
        return tokenize(texts)

    return encode


def test_an_error_of_the_tokenizer_names_shard_and_row(tmp_path, tokenize, exactly):
    path = write_lines(tmp_path / "a.jsonl", *"abcde")
    message = f"{path}: line 3: the tokenizer failed: KeyError: 'no such piece'"
    with pytest.raises(RowError, match=exactly(message)) as caught:
        list(stream_of(path, failing(tokenize, "c")))
    assert isinstance(caught.value.__cause__, KeyError)


def test_only_the_rows_that_fail_are_skipped(tmp_path, tokenize, texts_in):
    path = write_lines(tmp_path / "a.jsonl", *"abcde")
    stream = stream_of(path, failing(tokenize, "b", "e"), SKIP)
    assert texts_of(stream, texts_in) == ["a", "c", "d"]
    assert [each.document for each in stream.skipped] == [1, 4]


def test_running_out_of_memory_is_no_bad_row(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", "a")

    def encode(texts):
        raise MemoryError

    with pytest.raises(MemoryError):
        list(stream_of(path, encode, SKIP))


OUTSIDE = "which is not in [0, 2,147,483,647]"
WRONG_IDS = [
    ([1, 2**31], f"token 2 has id 2,147,483,648, {OUTSIDE}"),
    ([-1], f"token 1 has id -1, {OUTSIDE}"),
    ([0, 2**70], f"token 2 has id 1,180,591,620,717,411,303,424, {OUTSIDE}"),
    (np.array([3, -7], np.int32), f"token 2 has id -7, {OUTSIDE}"),
    (np.array([2**32 + 5]), f"token 1 has id 4,294,967,301, {OUTSIDE}"),
    (np.array([2**63], np.uint64), f"token 1 has id 9,223,372,036,854,775,808, {OUTSIDE}"),
    ([1.5], "expected a list of token ids, got an array of float64 (1,)"),
    (["a"], "expected a list of token ids, got an array of <U1 (1,)"),
    ([[1, 2]], "expected a list of token ids, got an array of int64 (1, 2)"),
    (object(), "expected a list of token ids, got object"),
    ([True], "expected a list of token ids, got an array of bool (1,)"),
]


@pytest.mark.parametrize(("ids", "reason"), WRONG_IDS, ids=[each[1][:30] for each in WRONG_IDS])
def test_ids_that_do_not_fit_are_named_with_shard_and_row(tmp_path, exactly, ids, reason):
    path = write_lines(tmp_path / "a.jsonl", "good", "bad")
    encode = lambda texts: [ids if text == "bad" else [1] for text in texts]  # noqa: E731
    with pytest.raises(RowError, match=exactly(f"{path}: line 2: {reason}")):
        list(stream_of(path, encode))


def test_the_largest_id_and_empty_lists_stay_what_they_are(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", "a", "")
    encode = lambda texts: [[2**31 - 1] if text else [] for text in texts]  # noqa: E731
    batches = list(stream_of(path, encode))
    assert [batch.inputs[0, :2].tolist() for batch in batches] == [[0, 2**31 - 1], [0, 0]]


@pytest.mark.parametrize("dtype", ["<u4", ">u4", "<i8", ">i8", "<u8", "<i4", ">i4", "<i2", "i1"])
def test_shards_of_tokens_beyond_int32_are_named(tmp_path, exactly, dtype):
    path = tmp_path / "a.npy"
    wrong = 2**31 + 5 if np.iinfo(dtype).max > 2**31 else -3
    np.save(path, np.array([0, 1, 2, 0, 1, wrong], dtype))
    np.save(tmp_path / "good.npy", np.array([0, 1, 2], dtype))
    (batch,) = stream_of(tmp_path / "good.npy", None)
    assert batch.inputs[0, :3].tolist() == [0, 1, 2]
    message = f"{path}: row 2: token 3 has id {wrong:,}, {OUTSIDE}"
    with pytest.raises(RowError, match=exactly(message)):
        list(stream_of(path, None))
    stream = stream_of(path, None, SKIP)
    assert [batch.inputs[0, :3].tolist() for batch in stream] == [[0, 1, 2]]
    assert stream.stats.counts.skipped == 0  # after the last batch; the list has it
    assert [str(each.reason) for each in stream.skipped] == [message]


def test_a_format_of_others_cannot_wrap_ids_either(tmp_path, exactly):
    class Wide:
        def __init__(self, path, options):
            self.sizes = [1]

        def read(self, block):
            return [np.array([2**32 + 1])]

        def close(self):
            pass

    register_format(".wide", Wide)
    (tmp_path / "a.wide").touch()
    message = f"{tmp_path}/a.wide: row 1: token 1 has id 4,294,967,297, {OUTSIDE}"
    with pytest.raises(RowError, match=exactly(message)):
        list(stream_of(tmp_path / "a.wide", None))
    packer, row = Flat(), np.zeros(4, np.int32)
    piece = Piece(Reference(0, 0, 0), np.array([2**32 + 1] * 9))
    with pytest.raises(TypeError, match="Cannot cast array data"):
        packer.fill(row, row.copy(), iter([piece]))


def test_a_separator_that_the_file_cannot_hold_is_an_error(tmp_path, exactly):
    write_token_bin(tmp_path / "a.bin", np.arange(50))
    message = f"{tmp_path}/a.bin: its uint16 cannot represent the id 70,000, which begins documents"
    with pytest.raises(ValueError, match=exactly(message)):
        list(stream_of(tmp_path / "a.bin", None, replace(CONFIG, bos_id=70_000)))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 65_536], "token 2 has id 65,536, which is not in [0, 65,535]"),
        ([-1], f"token 1 has id -1, {OUTSIDE}"),
        ([0.5], "expected a list of token ids, got an array of float64 (1,)"),
    ],
)
def test_ids_that_a_token_file_cannot_hold_are_not_written(tmp_path, tokens, message, exactly):
    path = tmp_path / "a.bin"
    with pytest.raises(ValueError, match=exactly(f"{path}: {message}")):
        write_token_bin(path, np.array(tokens))
    assert not path.exists()


@pytest.mark.parametrize("name", ["bos_id", "pad_id"])
@pytest.mark.parametrize("value", [-1, 2**31])
def test_ids_of_the_config_must_be_ids(name, value, exactly):
    message = f"{name} must be in [0, 2147483647], got {value}"
    with pytest.raises(ValueError, match=exactly(message)):
        replace(CONFIG, **{name: value})


@pytest.fixture
def mixed(tmp_path):
    """Shards of lines, of which every third is bad; and the good texts."""
    folder, good = tmp_path / "mixed", []
    folder.mkdir()
    for shard in range(3):
        lines = []
        for i in range(20):
            if i % 3 == 2:
                lines.append("bad")
            else:
                good.append(f"{shard}/{i}")
                lines.append(json.dumps({"text": good[-1]}))
        (folder / f"{shard}.jsonl").write_text("\n".join(lines))
    return folder, good


BAD = 18


def test_skipped_rows_are_counted_told_of_and_the_others_all_come(
    mixed, tokenize, texts_in, caplog
):
    folder, good = mixed
    stream = stream_of(folder, tokenize, SKIP)
    with caplog.at_level(logging.WARNING, "mlx_shards"):
        assert texts_of(stream, texts_in) == good
    assert stream.stats.counts.skipped == BAD
    assert len(stream.skipped) == len(caplog.messages) == BAD
    assert caplog.messages[0] == (
        f"skipped a row: {folder}/0.jsonl: line 3: not JSON: Expecting value: line 1 column 1 "
        "(char 0)"
    )
    assert (stream.skipped[-1].shard, stream.skipped[-1].document) == (local_shards(folder)[2], 17)


def test_a_bad_row_is_an_error_unless_asked_otherwise(mixed, tokenize):
    folder, _ = mixed
    assert CONFIG.on_error == "raise"
    with pytest.raises(CorruptShard, match=r"0\.jsonl: line 3: not JSON"):
        list(stream_of(folder, tokenize))


@pytest.mark.parametrize("packing", ["pad", "flat", "best_fit"])
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_skipped_rows_are_remembered_at_resume_and_counted_once(
    mixed, tokenize, packing, cut, prefetch
):
    folder, _ = mixed
    config = replace(SKIP, packing=packing, shuffle=True, epochs=2, buffer_size=5)
    options = {"prefetch": prefetch}
    whole = stream_of(folder, tokenize, config, **options)
    expected = [batch.inputs.tolist() for batch in whole]
    first, second = (stream_of(folder, tokenize, config, **options) for _ in range(2))
    head = []
    for batch in first:
        head.append(batch.inputs.tolist())
        if len(head) == cut:
            break
    state = json.loads(json.dumps(first.state()))
    assert state["counts"]["skipped"] == state["sources"]["shards"]["skipped"]
    second.load_state(state)
    assert head + [batch.inputs.tolist() for batch in second] == expected
    assert second.state() == whole.state()


def test_rows_are_counted_by_source_and_for_each_epoch(mixed, tokenize, tmp_path):
    folder, _ = mixed
    write_lines(tmp_path / "clean.jsonl", *"abcdefgh")
    sources = {"bad": Source(local_shards(folder)), "good": Source(local_shards(tmp_path))}
    stream = TokenStream(sources, tokenize, replace(SKIP, epochs=2), arrays="numpy")
    list(stream)
    state = stream.state()
    assert {name: each["skipped"] for name, each in state["sources"].items()} == {
        "bad": 2 * BAD,
        "good": 0,
    }
    assert stream.stats.counts.skipped == 2 * BAD
    assert len(stream.skipped) == BAD  # each row once


def test_a_stream_that_ended_at_a_bad_row_goes_on_by_skipping_it(mixed, tokenize, texts_in):
    folder, good = mixed
    first = stream_of(folder, tokenize, prefetch=0)
    batches = iter(first)
    found = [next(batches), next(batches)]
    with pytest.raises(CorruptShard):
        next(batches)
    second = stream_of(folder, tokenize, SKIP)
    second.load_state(first.state())
    assert texts_of([*found, *second], texts_in) == good
    assert second.stats.counts.skipped == BAD


def test_shards_of_bad_rows_only_are_an_error_and_no_endless_loop(tmp_path, tokenize, exactly):
    (tmp_path / "a.jsonl").write_text("bad\n" * 3)
    message = f"no documents in {tmp_path}/a.jsonl; 3 rows were skipped"
    with pytest.raises(ValueError, match=exactly(message)):
        list(stream_of(tmp_path, tokenize, replace(SKIP, epochs=None)))


def test_the_rows_of_an_unreadable_row_group_are_skipped_and_counted(
    tmp_path, documents, tokenize, texts_in
):
    from mlx_shards import write_shards

    texts = documents(60)
    write_shards(texts, tmp_path, group=20)
    path = tmp_path / "shard_00000.parquet"
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = group.data_page_offset
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    config = replace(SKIP, sequence_length=200)
    stream = stream_of(path, tokenize, config)
    assert texts_of(stream, texts_in) == texts[:20] + texts[40:]
    assert stream.stats.counts.skipped == 20
    assert stream.skipped[0].reason.startswith(f"{path}: row 21: {path}: row group 1: ")


def test_damaged_rows_from_the_network_are_downloaded_once_more_and_only_once(
    server, tmp_path, quick, tokenize, texts_in
):
    good = b'{"text": "a"}\n{"text": "b"}\n'
    shard = server.add("a.jsonl", good)
    cache = Cache(tmp_path / "1", "1MB", http=quick)
    with cache.lease(shard) as lease:
        lease.path.write_bytes(good.replace(b'"a"', b"\0a\0"))  # of the same size
    stream = TokenStream([shard], tokenize, CONFIG, cache=cache, arrays="numpy")
    assert texts_of(stream, texts_in) == ["a", "b"]
    assert cache.stats.corrupt == 1
    shard = server.add("b.jsonl", good + b"bad\n" * 3000)
    cache = Cache(tmp_path / "2", "1MB", http=quick)
    stream = TokenStream([shard], tokenize, replace(SKIP, epochs=2), cache=cache, arrays="numpy")
    assert texts_of(stream, texts_in) == ["a", "b"] * 2
    assert len(stream.skipped) == 100  # the first
    assert stream.stats.counts.skipped == 3000  # those before the last batch
    assert len(server.requests_of("b.jsonl")) == 2


def test_bad_rows_after_the_last_document_are_counted_once_when_epochs_are_added(
    tmp_path, tokenize
):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nbad\n')
    config = replace(SKIP, batch_size=2)
    first = stream_of(tmp_path, tokenize, config)
    assert len(list(first)) == first.stats.counts.skipped == 1
    second = stream_of(tmp_path, tokenize, replace(config, epochs=2))
    second.load_state(first.state())
    assert len(list(second)) == 1
    assert second.stats.counts.skipped == 2
