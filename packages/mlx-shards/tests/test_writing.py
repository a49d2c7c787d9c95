"""S12: nanochat's shards are read unchanged, and what is written is what nanochat reads."""

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_shards import (
    StreamConfig,
    TokenStream,
    local_shards,
    manifest_shards,
    read_documents,
    write_shards,
)


def nanochat_documents(folder):
    """All texts in order, the way nanochat's loader reads them."""
    for path in sorted(path for path in folder.iterdir() if path.name.endswith(".parquet")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).column("text").to_pylist()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=60), st.integers(1, 9))
def test_written_shards_are_read_by_nanochat_and_by_us(tmp_path_factory, texts, group):
    folder = tmp_path_factory.mktemp("out")
    shards = write_shards(texts, folder, shard_chars=200, group=group)
    assert list(nanochat_documents(folder)) == texts
    assert list(read_documents(shards)) == texts
    assert shards == manifest_shards(folder / "manifest.json")


def test_shards_have_nanochats_layout(tmp_path):
    texts = ["a" * 100] * 5000
    shards = write_shards(texts, tmp_path, shard_chars=150_000)
    assert [shard.name for shard in shards] == [f"shard_{i:05d}.parquet" for i in range(3)]
    assert [shard.rows for shard in shards] == [2048, 2048, 904]  # whole groups, then the rest
    metadata = pq.ParquetFile(tmp_path / "shard_00000.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(2)] == [1024, 1024]
    column = metadata.row_group(0).column(0)
    assert column.path_in_schema == "text"
    assert column.compression == "ZSTD"
    assert not column.is_stats_set
    assert column.dictionary_page_offset is None


def test_the_tokens_of_nanochats_loader_come_out_unchanged(tmp_path, documents, tokenize):
    """Unshuffled, one process: best-fit over 128 documents at a time, buffered 300."""
    texts = documents(700, longest=60)
    write_shards(texts, tmp_path, shard_chars=9000, group=128)
    config = StreamConfig(64, 2, bos_id=0, buffer_size=300, shuffle=False, epochs=1)
    found = [
        [*inputs, targets[-1]]
        for batch in TokenStream(local_shards(tmp_path), tokenize, config, arrays="numpy")
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)
    ]
    coming = [[0, *tokens] for tokens in tokenize(list(nanochat_documents(tmp_path)))]
    buffer, expected = [], []
    while len(expected) < len(found):
        row = []
        while len(row) < 65:
            while len(buffer) < 300 and coming:
                buffer += coming[:128]
                del coming[:128]
            fitting = [document for document in buffer if len(document) <= 65 - len(row)]
            chosen = max(fitting, key=len) if fitting else min(buffer, key=len)
            buffer.remove(chosen)
            row += chosen[: 65 - len(row)]
        expected.append(row)
    assert len(found) > 100
    assert found == expected


def test_nothing_is_written_over(tmp_path, exactly):
    write_shards(["a"], tmp_path)
    message = f"{tmp_path} already has 1 shards; choose another folder"
    with pytest.raises(ValueError, match=exactly(message)):
        write_shards(["a"], tmp_path)
    with pytest.raises(ValueError, match=exactly("no documents to write")):
        write_shards([], tmp_path / "empty")
