"""S7: ranks share an epoch without gap or overlap, and always agree on the number of batches."""

import itertools

import pytest

from mlx_shards import StreamConfig, TokenStream, local_shards


@pytest.mark.parametrize("packing", ["pad", "flat"])
@pytest.mark.parametrize("world_size", range(1, 9))
def test_the_ranks_together_give_every_document_once(
    folder_of, tokenize, texts_in, packing, world_size
):
    folder, texts = folder_of(40, 23, 7)  # fewer shards than most world sizes
    config = StreamConfig(
        64, 2, bos_id=0, packing=packing, oversize="split", epochs=1, last_batch="pad", seed=1
    )
    streams = [
        TokenStream(
            local_shards(folder), tokenize, config, rank=rank, world_size=world_size, arrays="numpy"
        )
        for rank in range(world_size)
    ]
    batches = [list(stream) for stream in streams]
    assert len({len(each) for each in batches}) == 1
    rows = []
    for of_one_step in zip(*batches, strict=True):
        for batch in of_one_step:
            assert batch.inputs.shape == (2, 64)
            rows += [
                [*row[:1], *(t for t in targets if t != -1)]
                for row, targets in zip(batch.inputs, batch.targets, strict=True)
            ][: batch.rows]
    if packing == "flat":  # rows overlap by one token
        rows = [rows[0], *(row[1:] for row in rows[1:])]
    assert sorted(texts_in(rows)[1:]) == sorted(itertools.chain(*texts))


@pytest.mark.parametrize("last_batch", ["drop", "pad"])
def test_best_fit_gives_ranks_equal_batches_and_distinct_rows(folder_of, tokenize, last_batch):
    folder, _ = folder_of(50, 30)
    config = StreamConfig(48, 3, bos_id=0, buffer_size=10, epochs=1, last_batch=last_batch)
    for world_size in (1, 2, 5):
        streams = [
            TokenStream(
                local_shards(folder),
                tokenize,
                config,
                rank=rank,
                world_size=world_size,
                arrays="numpy",
            )
            for rank in range(world_size)
        ]
        batches = [list(stream) for stream in streams]
        assert len({len(each) for each in batches}) == 1
        assert all(batch.inputs.shape == (3, 48) for each in batches for batch in each)
        rows = [
            row.tobytes()
            for each in batches
            for batch in each
            for row in batch.inputs[: batch.rows]
        ]
        assert len(set(rows)) == len(rows)
        counts = streams[0].stats.counts
        assert counts.rows == len(rows)
        if last_batch == "drop":
            assert counts.padding <= 49  # of the last row of all, if it happened to fill a batch


def test_a_rank_outside_of_the_world_is_refused(folder_of, tokenize, exactly):
    folder, _ = folder_of(5)
    with pytest.raises(ValueError, match=exactly("rank must be in [0, 2), got 2")):
        TokenStream(local_shards(folder), tokenize, StreamConfig(8, 1), rank=2, world_size=2)
