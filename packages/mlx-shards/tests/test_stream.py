import mlx.core as mx
import numpy as np
import pytest

from mlx_shards import ShardError, StreamConfig, TokenStream, local_shards, write_token_bin


def test_targets_are_the_next_tokens_and_padding_is_ignored(folder_of, tokenize):
    folder, texts = folder_of(20)
    config = StreamConfig(
        40, 4, bos_id=0, packing="pad", shuffle=False, epochs=1, last_batch="pad", pad_id=7
    )
    rows = []
    for batch in TokenStream(local_shards(folder), tokenize, config, arrays="numpy"):
        for each in (batch.inputs, batch.targets, batch.document_ids):
            assert each.dtype == np.int32
            assert each.shape == (4, 40)
        rows += zip(batch.inputs, batch.targets, batch.document_ids, strict=True)
    for text, (inputs, targets, ids) in zip(texts[0], rows, strict=True):
        tokens = [0, *tokenize([text])[0]][:41]
        inside = tokens[:40]
        assert inputs.tolist() == inside + [7] * (40 - len(inside))
        assert targets.tolist() == tokens[1:] + [-1] * (41 - len(tokens))
        assert ids.tolist() == [1] * len(inside) + [0] * (40 - len(inside))


def test_best_fit_rows_begin_with_bos_and_are_full(folder_of, tokenize):
    folder, _ = folder_of(80, 70)
    config = StreamConfig(64, 2, bos_id=0, buffer_size=30, epochs=1)
    batches = list(TokenStream(local_shards(folder), tokenize, config, arrays="numpy"))
    assert len(batches) > 10
    for batch in batches[:-1]:
        assert (batch.inputs[:, 0] == 0).all()
        assert (batch.targets != -1).all()
        # A new document begins exactly at each BOS.
        assert ((np.diff(batch.document_ids) == 1) == (batch.inputs[:, 1:] == 0)).all()


def test_batches_are_mlx_arrays_unless_numpy_is_asked_for(folder_of, tokenize):
    folder, _ = folder_of(30)
    config = StreamConfig(16, 2, bos_id=0)
    batch = next(iter(TokenStream(local_shards(folder), tokenize, config)))
    plain = next(iter(TokenStream(local_shards(folder), tokenize, config, arrays="numpy")))
    assert batch.inputs.dtype == batch.targets.dtype == batch.document_ids.dtype == mx.int32
    assert batch.inputs.tolist() == plain.inputs.tolist()


def test_epochs_differ_with_shuffle_and_repeat_without(folder_of, tokenize, texts_in):
    folder, texts = folder_of(12, 12, group=4)

    def epochs(shuffle):
        config = StreamConfig(
            128, 1, bos_id=0, packing="pad", shuffle=shuffle, epochs=2, oversize="split"
        )
        stream = TokenStream(local_shards(folder), tokenize, config, arrays="numpy")
        found = [texts_in([row.inputs[0][row.document_ids[0] == 1]])[1] for row in stream]
        return found[:24], found[24:]

    plain = [text for some in texts for text in some]
    assert epochs(shuffle=False) == (plain, plain)
    first, second = epochs(shuffle=True)
    assert sorted(first) == sorted(second) == sorted(plain)
    assert len({tuple(plain), tuple(first), tuple(second)}) == 3


def test_one_shard_of_two_documents_can_be_repeated_for_ever(folder_of, tokenize):
    folder, _ = folder_of(2)
    stream = TokenStream(local_shards(folder), tokenize, StreamConfig(16, 2, bos_id=0))
    for count, _ in enumerate(stream, 1):
        if count == 50:
            break
    assert stream.state()["sources"]["shards"]["epoch"] > 10


def test_an_epoch_without_documents_is_an_error(folder_of, tokenize, exactly):
    folder, _ = folder_of(0, 0)
    stream = TokenStream(local_shards(folder), tokenize, StreamConfig(16, 2, bos_id=0))
    message = f"no documents in {folder}/shard_00000.parquet, {folder}/shard_00001.parquet"
    with pytest.raises(ValueError, match=exactly(message)):
        next(iter(stream))


def test_no_shards_are_an_error(tokenize, exactly):
    with pytest.raises(ValueError, match=exactly("no shards in 'shards': the list is empty")):
        TokenStream([], tokenize, StreamConfig(16, 2))


def test_fewer_rows_than_a_batch_are_an_error_and_not_an_empty_loop(folder_of, tokenize, exactly):
    folder, _ = folder_of(3)
    config = StreamConfig(64, 20, bos_id=0, packing="pad", epochs=1)
    message = (
        "the shards fill only 3 rows of one batch of 20; lower batch_size, raise epochs or "
        "set last_batch='pad'"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        list(TokenStream(local_shards(folder), tokenize, config, arrays="numpy"))


def test_shards_of_tokens_need_no_tokenizer_and_text_does(folder_of, tmp_path, exactly):
    write_token_bin(tmp_path / "a.bin", np.tile([50, 1, 2, 3], 40))
    config = StreamConfig(8, 2, bos_id=50, shuffle=False, packing="flat")
    stream = TokenStream(local_shards(tmp_path / "a.bin"), None, config, arrays="numpy")
    first = next(iter(stream))
    assert first.inputs[0].tolist() == [50, 1, 2, 3, 50, 1, 2, 3]
    assert first.document_ids[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    folder, _ = folder_of(3)
    message = (
        f"{folder}/shard_00000.parquet: rows 1 to 3: the shards are text: pass tokenize, a "
        "function of a list of texts"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        next(iter(TokenStream(local_shards(folder), None, config)))


def test_a_tokenizer_that_drops_a_text_is_an_error(folder_of, exactly):
    folder, _ = folder_of(8)
    message = (
        f"{folder}/shard_00000.parquet: rows 1 to 8: tokenize must return a list of token ids for "
        "each text: got 1 for 8 texts"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        next(iter(TokenStream(local_shards(folder), lambda texts: [[1]], StreamConfig(8, 1))))


def test_a_shard_with_other_rows_than_the_manifest_says_is_an_error(folder_of, tokenize, exactly):
    from dataclasses import replace

    folder, _ = folder_of(8)
    shards = [replace(each, rows=9) for each in local_shards(folder)]
    with pytest.raises(
        ShardError, match=exactly(f"{folder}/shard_00000.parquet has 8 documents, not 9")
    ):
        next(iter(TokenStream(shards, tokenize, StreamConfig(8, 1, bos_id=0))))


def test_two_loops_over_one_stream_are_refused(folder_of, tokenize):
    folder, _ = folder_of(30)
    stream = TokenStream(local_shards(folder), tokenize, StreamConfig(8, 1, bos_id=0))
    for _ in stream:
        with pytest.raises(RuntimeError, match=r"^this stream is being iterated over already"):
            next(iter(stream))
        break


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence_length": 0}, "sequence_length must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"packing": "best-fit"}, "packing 'best-fit' is unknown; did you mean 'best_fit'?"),
        ({"oversize": "crops"}, "oversize 'crops' is unknown; did you mean 'crop'?"),
        ({"last_batch": "keep"}, "last_batch 'keep' is unknown; valid: drop, pad"),
    ],
    ids=str,
)
def test_a_wrong_config_is_named(change, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        StreamConfig(**{"sequence_length": 8, "batch_size": 1, **change})


def test_a_call_of_the_tokenizer_gets_texts_of_a_bounded_length(folder_of, tokenize, monkeypatch):
    folder, texts = folder_of(30)
    monkeypatch.setattr("mlx_shards.documents._BATCH_CHARS", 100)
    calls = []

    def counted(some):
        calls.append(list(some))
        return tokenize(some)

    config = StreamConfig(16, 2, bos_id=0, shuffle=False, epochs=1)
    list(TokenStream(local_shards(folder), counted, config, arrays="numpy"))
    assert [text for call in calls for text in call] == texts[0]
    assert all(len(call) == 1 or sum(map(len, call)) <= 100 for call in calls)
    assert len(calls) < 30
