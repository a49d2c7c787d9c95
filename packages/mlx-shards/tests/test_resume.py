"""S6: a stream resumed from a state yields the same tokens as an uninterrupted one."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_shards import (
    Cache,
    Shard,
    Source,
    StateError,
    StreamConfig,
    TokenStream,
    local_shards,
)

CONFIG = StreamConfig(32, 2, bos_id=0, buffer_size=20, epochs=3, seed=5)
VARIANTS = {
    "best_fit": CONFIG,
    "best_fit split": replace(CONFIG, oversize="split"),
    "flat": replace(CONFIG, packing="flat"),
    "pad split": replace(CONFIG, packing="pad", oversize="split"),
    "padded end": replace(CONFIG, last_batch="pad"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of three shards of text, of uneven sizes, in blocks of 8 documents."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for i, count in enumerate((30, 41, 9)):
        texts = [f"{i}/{j}:" + "x" * int(random.integers(0, 60)) for j in range(count)]
        pq.write_table(pa.table({"text": texts}), folder / f"{i}.parquet", row_group_size=8)
    return folder


def tokenize(texts):
    return [[1 + byte for byte in text.encode()] for text in texts]


def rows_of(stream, limit=None):
    found = []
    for batch in stream:
        found.append((batch.inputs.tolist(), batch.targets.tolist(), batch.document_ids.tolist()))
        if len(found) == limit:
            break
    return found


def make(data, config, **options):
    return TokenStream(local_shards(data), tokenize, config, arrays="numpy", **options)


@pytest.fixture(scope="module")
def uninterrupted(data):
    return {name: rows_of(make(data, config)) for name, config in VARIANTS.items()}


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.floats(0, 1),
    st.sampled_from([0, 1, 4]),
    st.sampled_from([0, 1, 4]),
)
def test_the_rest_is_identical_after_any_of_50_random_cuts(
    data, uninterrupted, variant, cut, before, after
):
    config, expected = VARIANTS[variant], uninterrupted[variant]
    batches = round(cut * len(expected))
    first = make(data, config, prefetch=before)
    if batches:
        assert rows_of(first, batches) == expected[:batches]
    saved = json.dumps(first.state())
    second = make(data, config, prefetch=after)
    second.load_state(saved)
    assert rows_of(second) == expected[batches:]
    assert second.state()["counts"] == make_counts(data, config)


_COUNTS = {}


def make_counts(data, config):
    if config not in _COUNTS:
        stream = make(data, config, prefetch=0)
        rows_of(stream)
        _COUNTS[config] = stream.state()["counts"]
    return _COUNTS[config]


def test_the_variants_are_long_enough_to_cut(uninterrupted):
    assert all(len(rows) >= 20 for rows in uninterrupted.values())


def test_states_follow_one_another_over_many_cuts(data, uninterrupted):
    expected, found, state = uninterrupted["best_fit"], [], None
    while len(found) < len(expected):
        stream = make(data, CONFIG)
        if state:
            stream.load_state(state)
        found += rows_of(stream, 3)
        state = stream.state()
    assert found == expected


def test_leaving_a_loop_and_entering_another_loses_nothing(data, uninterrupted):
    stream = make(data, CONFIG, prefetch=4)
    found = rows_of(stream, 7) + rows_of(stream, 1) + rows_of(stream)
    assert found == uninterrupted["best_fit"]
    assert rows_of(stream) == []  # the end stays the end
    stream.reset()
    assert rows_of(stream) == uninterrupted["best_fit"]


def test_the_order_does_not_depend_on_where_shards_are_or_how_much_is_cached(
    data, uninterrupted, server, tmp_path, quick
):
    shards = [server.add(path.name, path.read_bytes()) for path in sorted(data.glob("*.parquet"))]
    cache = Cache(tmp_path, "1MB", max_files=1, http=quick)
    stream = TokenStream(shards, tokenize, CONFIG, cache=cache, arrays="numpy")
    found = rows_of(stream, 10)
    roomy = Cache(tmp_path, "1MB", max_files=3, http=quick)
    again = TokenStream(shards, tokenize, CONFIG, cache=roomy, arrays="numpy", shards_ahead=3)
    again.load_state(stream.state())
    assert found + rows_of(again) == uninterrupted["best_fit"]


@pytest.mark.parametrize(
    ("before", "after"), [((1, 4), (4, 1)), ((2, 2), (1, 4)), ((4, 1), (2, 2))]
)
def test_another_world_size_goes_on_with_the_same_global_batches(data, before, after):
    def ranks(world_size, batch_size, state=None, limit=None):
        config = replace(CONFIG, batch_size=batch_size)
        streams = [
            make(data, config, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        if state:
            for stream in streams:
                stream.load_state(state)
        rows = [rows_of(stream, limit) for stream in streams]
        whole = [
            [row for batch in batches for row in batch[0]] for batches in zip(*rows, strict=True)
        ]
        assert all(stream.state() == streams[0].state() for stream in streams)
        return whole, streams[0].state()

    expected, _ = ranks(1, 4)
    head, state = ranks(*before, limit=6)
    tail, _ = ranks(*after, state=state)
    assert head + tail == expected


def test_a_state_is_small(data):
    config = replace(CONFIG, buffer_size=1000, epochs=None)
    stream = make(data, config)
    rows_of(stream, 5)
    assert len(json.dumps(stream.state())) < 20_000


def test_shards_with_changed_text_are_noticed(data, tmp_path, exactly):
    stream = make(data, CONFIG)
    rows_of(stream, 5)
    changed = make(data, CONFIG)
    changed._batcher.encode._tokenize = lambda texts: [[*ids, 1] for ids in tokenize(texts)]
    changed.load_state(stream.state())
    with pytest.raises(StateError, match="the tokenizer or the shards have changed"):
        rows_of(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "config has seed 5 in the state and 6 here"),
        ({"sequence_length": 8}, "config has sequence_length 32 in the state and 8 here"),
        ({"packing": "flat"}, "config has packing 'best_fit' in the state and 'flat' here"),
    ],
    ids=str,
)
def test_a_state_of_another_config_is_refused(data, change, message, exactly):
    state = make(data, CONFIG).state()
    with pytest.raises(
        StateError, match=exactly(f"the state belongs to another stream: {message}")
    ):
        make(data, replace(CONFIG, **change)).load_state(state)


def test_a_state_of_other_shards_is_refused(data):
    state = make(data, CONFIG).state()
    other = TokenStream(local_shards(data)[:2], tokenize, CONFIG)
    with pytest.raises(StateError, match=r"source 'shards' has shards '[0-9a-f]{16}' in"):
        other.load_state(state)


@pytest.mark.parametrize("state", [{}, {"format": 1}, [], {"format": 1, "config": None}], ids=str)
def test_what_is_no_state_is_refused(data, state):
    with pytest.raises(StateError, match=r"^not the state of a stream: "):
        make(data, CONFIG).load_state(state)


def test_a_state_cannot_be_loaded_inside_a_loop(data, exactly):
    stream = make(data, CONFIG)
    for _ in stream:
        message = "leave the loop over this stream, or close() it, before this"
        with pytest.raises(RuntimeError, match=exactly(message)):
            stream.load_state(stream.state())
        break


@pytest.mark.parametrize("cut", [3, 10, 17, 24])
def test_a_mixture_resumes_exactly(data, cut):
    shards = local_shards(data)
    sources = {"a": Source(shards[:1], 2.0), "b": Source(shards[1:], 1.0)}
    config = replace(CONFIG, epochs=None, packing="flat")  # takes documents one by one

    def stream():
        return TokenStream(sources, tokenize, config, arrays="numpy")

    whole, first, second = stream(), stream(), stream()
    expected = rows_of(whole, 40)
    head = rows_of(first, cut)
    second.load_state(first.state())
    assert head + rows_of(second, 40 - cut) == expected
    assert second.state() == whole.state()


def test_shards_of_tokens_resume_exactly(tmp_path):
    random = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", random.integers(0, 12, 3000).astype(np.uint16))
    shards = [Shard("a.npy", str(tmp_path / "a.npy"))]
    config = replace(CONFIG, epochs=2)
    expected = rows_of(TokenStream(shards, None, config, arrays="numpy"))
    first = TokenStream(shards, None, config, arrays="numpy")
    head = rows_of(first, 9)
    second = TokenStream(shards, None, config, arrays="numpy")
    second.load_state(first.state())
    assert head + rows_of(second) == expected
