from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_map

from mlx_gpt.models.cache import Cache, attention_mask
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig

HEADS, DIMS = 2, 4


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int, pad: int) -> np.ndarray:
    """Return the attention of one row in float64, with loops; (heads, T, dims) each."""
    found = np.zeros_like(q)
    for head in range(q.shape[0]):
        for t in range(pad, q.shape[1]):
            seen = slice(max(pad, t - window), t + 1)
            scores = k[head, seen] @ q[head, t]
            powers = np.exp(scores - scores.max())
            found[head, t] = powers / powers.sum() @ v[head, seen]
    return found


@st.composite
def walks(draw: st.DrawFn) -> tuple[list[int], int, list[int]]:
    """Sizes of chunks, a window, and the padding of each row."""
    chunks = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    padding = draw(st.lists(st.integers(0, sum(chunks) - 1), min_size=1, max_size=3))
    return chunks, draw(st.integers(1, 12)), padding


def run(
    cache: Cache, arrays: list[np.ndarray], chunks: list[int], begin: int = 0
) -> list[np.ndarray]:
    """Return the attention through a cache of one layer, chunk by chunk."""
    layer, found = cache.layers[0], []
    for size in chunks:
        q, k, v = (mx.array(each[:, :, begin : begin + size].astype(np.float32)) for each in arrays)
        mask = attention_mask(size, layer.window, layer, cache.left_padding)
        k, v = layer.update(k, v)
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=mask)
        found.append(np.array(out))
        begin += size
        assert max(each.shape[2] for each in cache.arrays()) <= layer.window + 1
        assert cache.offset == begin
    return found


@given(walks(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_any_chunks_windows_and_paddings_attend_as_one_row_alone(
    walk: tuple[list[int], int, list[int]], seed: int
):
    chunks, window, padding = walk
    shape = (len(padding), HEADS, sum(chunks), DIMS)
    arrays = list(np.random.default_rng(seed).normal(size=(3, *shape)))
    found = np.concatenate(run(Cache([window], padding), arrays, chunks), axis=2)
    assert np.isfinite(found).all()
    for row, pad in enumerate(padding):
        expected = attention(*(each[row] for each in arrays), window, pad)
        np.testing.assert_allclose(found[row, :, pad:], expected[:, pad:], atol=1e-5)


@given(walks(), st.data(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_rows_taken_go_on_as_before(
    walk: tuple[list[int], int, list[int]], data: st.DataObject, seed: int
):
    chunks, window, padding = walk
    cut = data.draw(st.integers(0, len(chunks)))
    rows = data.draw(st.lists(st.integers(0, len(padding) - 1), min_size=1, max_size=5))
    shape = (len(padding), HEADS, sum(chunks), DIMS)
    arrays = list(np.random.default_rng(seed).normal(size=(3, *shape)))
    whole = run(Cache([window], padding), arrays, chunks)
    cache = Cache([window], padding)
    run(cache, arrays, chunks[:cut])
    cache.take(rows)
    rest = run(cache, [each[rows] for each in arrays], chunks[cut:], sum(chunks[:cut]))
    for expected, found in zip(whole[cut:], rest, strict=True):
        np.testing.assert_allclose(found, expected[rows], atol=1e-5)


class Narrow(NanochatConfig):
    """Windows far shorter than the 128 that nanochat's rule gives at least."""

    @property
    def windows(self) -> list[int]:
        return [5, 64, 5]


def random_model(config: NanochatConfig) -> Nanochat:
    random = np.random.default_rng(0)

    def moved(parameter: mx.array) -> mx.array:
        noise = random.normal(scale=0.1, size=parameter.shape).astype(np.float32)
        return parameter + mx.array(noise)

    model = Nanochat(config).initialize(mx.random.key(0))
    model.update(tree_map(moved, model.parameters()))
    return model


@pytest.fixture(scope="module")
def narrow() -> Nanochat:
    config = Narrow(sequence_len=64, vocab_size=100, n_layer=3, n_head=2, n_kv_head=1, n_embd=32)
    return random_model(config)


def ids_of(count: int, seed: int = 0) -> mx.array:
    return mx.random.randint(0, 100, (1, count), key=mx.random.key(seed))


@pytest.mark.parametrize("chunks", [[1] * 40, [40], [17, 1, 1, 13, 1, 7], [3, 37]])
def test_the_model_reads_chunks_as_one_text(narrow: Nanochat, chunks: list[int]):
    ids, cache = ids_of(40), narrow.make_cache()
    expected = np.array(narrow(ids))
    begins = np.cumsum([0, *chunks])
    parts = [narrow(ids[:, a:b], cache) for a, b in pairwise(begins)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-5)
    held = [layer.keys.shape[2] for layer in cache.layers if layer.keys is not None]
    assert held[0] <= 6
    assert held[2] <= 6


@pytest.mark.parametrize("chunk", [1, 7, 24])
def test_padded_prompts_are_read_as_alone(narrow: Nanochat, chunk: int):
    lengths = [24, 3, 23, 11]
    prompts = [ids_of(length, seed=length) for length in lengths]
    padding = [24 - length for length in lengths]
    padded = mx.concatenate(
        [mx.pad(ids, [(0, 0), (pad, 0)]) for ids, pad in zip(prompts, padding, strict=True)]
    )
    cache = narrow.make_cache(padding)
    parts = [narrow(padded[:, begin : begin + chunk], cache) for begin in range(0, 24, chunk)]
    together = np.concatenate(parts, axis=1)
    for row, (ids, pad) in enumerate(zip(prompts, padding, strict=True)):
        np.testing.assert_allclose(together[row, pad:], np.array(narrow(ids))[0], atol=1e-5)


def test_nanochats_own_windows_hold_in_a_text_longer_than_the_model_was_made_for():
    config = NanochatConfig(
        sequence_len=256, vocab_size=100, n_layer=2, n_head=2, n_kv_head=2, n_embd=32
    )
    assert config.windows == [128, 256]
    model, ids = random_model(config), ids_of(300)
    expected, cache = np.array(model(ids)), model.make_cache()
    first = model(ids[:, :265], cache)
    np.testing.assert_allclose(first, expected[:, :265], atol=1e-5)
    for t in range(265, 300):
        np.testing.assert_allclose(
            model(ids[:, t : t + 1], cache), expected[:, t : t + 1], atol=1e-5
        )
    held = [layer.keys.shape[2] for layer in cache.layers if layer.keys is not None]
    assert held == [129, 257]


def test_a_cache_of_nothing_holds_nothing():
    cache = Cache([4, 8], [0, 0])
    assert cache.left_padding is None
    assert (cache.offset, cache.nbytes, cache.arrays()) == (0, 0, [])
