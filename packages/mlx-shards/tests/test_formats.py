import gzip
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlx_shards import (
    CorruptShard,
    ReadOptions,
    StreamConfig,
    TokenStream,
    local_shards,
    register_format,
    write_shards,
    write_token_bin,
)
from mlx_shards.formats import open_reader
from mlx_shards.tokens import document_starts


def blocks(path, **options):
    reader = open_reader(path, path.name, ReadOptions(**options))
    found = [list(reader.read(block)) for block in range(len(reader.sizes))]
    assert [len(block) for block in found] == list(reader.sizes)
    reader.close()
    return found


def as_lists(block):
    assert all(tokens.dtype.kind in "iu" for tokens in block)
    return [tokens.tolist() for tokens in block]


def safetensors(path, **tensors):
    """Write the format from its description: length, JSON header, data."""
    header, data = {"__metadata__": {"made": "here"}}, b""
    for name, values in tensors.items():
        dtype = {"uint16": "U16", "int64": "I64", "float32": "F32"}[values.dtype.name]
        offsets = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_parquet_gives_row_groups(tmp_path, parquet, documents):
    texts = documents(20)
    path = parquet(tmp_path / "a.parquet", texts, group=8)
    assert blocks(path) == [texts[:8], texts[8:16], texts[16:]]
    renamed = parquet(tmp_path / "b.parquet", texts, column="content")
    assert [text for block in blocks(renamed, column="content") for text in block] == texts


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines_give_texts_in_blocks_of_1024(tmp_path, suffix):
    texts = [f"{i} é\n" for i in range(1500)]
    data = "\n".join(json.dumps({"text": text, "n": 1}) for text in texts).encode() + b"\n\n"
    path = tmp_path / f"a{suffix}"
    if suffix.endswith("gz"):
        data = gzip.compress(data)
    if suffix.endswith("zst"):
        data = pa.compress(data, "zstd", asbytes=True)
    path.write_bytes(data)
    assert blocks(path) == [texts[:1024], texts[1024:]]


STREAM = [50, 1, 2, 50, 3, 50]


def test_nanogpt_bins_are_cut_at_the_separator(tmp_path):
    path = tmp_path / "a.bin"
    np.array([1, 2, *STREAM], np.uint16).tofile(path)
    (block,) = blocks(path, document_start=50)
    assert as_lists(block) == [[1, 2], [50, 1, 2], [50, 3, 50]]
    np.array(STREAM, np.uint32).tofile(path)
    (block,) = blocks(path, document_start=50, token_dtype="uint32")
    assert as_lists(block) == [[50, 1, 2], [50, 3, 50]]


@pytest.mark.parametrize(
    ("magic", "version", "dtype"), [(20240520, 1, "<u2"), (20240801, 7, "<u4")]
)
def test_llm_c_bins_say_their_type_themselves(tmp_path, magic, version, dtype):
    path = tmp_path / "a.bin"
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(STREAM)
    path.write_bytes(header.tobytes() + np.array(STREAM, dtype).tobytes())
    (block,) = blocks(path, document_start=50)
    assert as_lists(block) == [[50, 1, 2], [50, 3, 50]]


def test_written_bins_are_read_back(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 2**16, 5000)
    write_token_bin(tmp_path / "a.bin", tokens)
    read = [document for block in blocks(tmp_path / "a.bin") for document in block]
    assert (np.concatenate(read) == tokens).all()
    with pytest.raises(ValueError, match=r"b\.bin: token 2 has id 65,536, which is not in "):
        write_token_bin(tmp_path / "b.bin", np.array([0, 65536]))


def test_npy_and_safetensors_hold_one_vector(tmp_path):
    tokens = np.array(STREAM, np.uint16)
    np.save(tmp_path / "a.npy", tokens)
    safetensors(tmp_path / "a.safetensors", tokens=tokens)
    for name in ("a.npy", "a.safetensors"):
        (block,) = blocks(tmp_path / name, document_start=50)
        assert as_lists(block) == [[50, 1, 2], [50, 3, 50]]
    starts = np.array([0, 4], np.int64)
    path = safetensors(tmp_path / "b.safetensors", starts=starts, tokens=tokens)
    assert as_lists(blocks(path)[0]) == [[50, 1, 2, 50], [3, 50]]


def test_without_a_separator_documents_are_pieces_of_2048():
    assert document_starts(np.zeros(5000), None).tolist() == [0, 2048, 4096]
    assert document_starts(np.zeros(0), 1).tolist() == []


def test_a_registered_format_streams(tmp_path, tokenize):
    class Lines:
        def __init__(self, path, options):
            self.lines = path.read_text().splitlines()
            self.sizes = [len(self.lines)]

        def read(self, block):
            return self.lines

        def close(self):
            self.lines = []

    register_format(".txt", Lines)
    (tmp_path / "a.txt").write_text("one\ntwo")
    config = StreamConfig(5, 2, bos_id=0, packing="pad", shuffle=False, epochs=1)
    (batch,) = TokenStream(local_shards(tmp_path), tokenize, config, arrays="numpy")
    assert batch.inputs[:, 1:4].tolist() == tokenize(["one", "two"])


GOOD = b'{"text": "a"}\n'


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.parquet", b"PAR1", "not a readable parquet file: "),
        ("a.jsonl.gz", gzip.compress(GOOD)[:-4], "Compressed file ended before the end"),
        ("a.jsonl.gz", GOOD, "Not a gzipped file"),
        ("a.jsonl.zst", GOOD, "ZSTD"),
        ("a.bin", b"123", "3 bytes are not a multiple of a uint16 token"),
        ("a.npy", b"123", ""),
        ("a.safetensors", b"123", "not safetensors of integers: "),
        ("a.safetensors", (2**40).to_bytes(8, "little"), "not safetensors of integers: "),
    ],
)
def test_damaged_files_are_told_from_wrong_use(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CorruptShard, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
        blocks(path)


def test_a_truncated_parquet_or_bin_is_damaged(tmp_path, parquet, documents):
    path = parquet(tmp_path / "a.parquet", documents(50))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptShard):
        blocks(path)
    write_token_bin(tmp_path / "a.bin", np.arange(50))
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:-2])
    with pytest.raises(CorruptShard):
        blocks(tmp_path / "a.bin")


def test_a_damaged_page_is_found_when_it_is_read(tmp_path, documents):
    write_shards(documents(400), tmp_path)
    path = tmp_path / "shard_00000.parquet"
    data = bytearray(path.read_bytes())
    data[100:1000] = bytes(900)
    path.write_bytes(data)
    with pytest.raises(CorruptShard, match="row group 0"):
        blocks(path)


def test_the_end_of_a_name_may_be_in_upper_case(tmp_path):
    (tmp_path / "A.JSONL").write_bytes(GOOD)
    assert blocks(tmp_path / "A.JSONL") == [["a"]]
    assert [shard.name for shard in local_shards(tmp_path)] == ["A.JSONL"]


def test_wrong_use_is_a_value_error(tmp_path, parquet, exactly):
    path = parquet(tmp_path / "a.parquet", ["x"])
    with pytest.raises(ValueError, match=exactly(f"{path}: no column 'body'; it has text")):
        blocks(path, column="body")
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(ValueError, match=exactly(f"{path}: column 'text' is int64, not text")):
        blocks(path)
    path = tmp_path / "d.npy"
    np.save(path, np.zeros((2, 3)))
    message = f"{path}: expected a vector of integers, got float64 (2, 3)"
    with pytest.raises(ValueError, match=exactly(message)):
        blocks(path)
    path = safetensors(tmp_path / "e.safetensors", other=np.zeros(2, np.uint16))
    with pytest.raises(ValueError, match=exactly(f"{path}: no tensor 'tokens'; it has other")):
        blocks(path)
    with pytest.raises(ValueError, match=r"^shard a\.doc: no reader for this name; known are "):
        blocks(tmp_path / "a.doc")
