from collections.abc import Iterator
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_map

from mlx_gpt.models import cache as cache_module
from mlx_gpt.models.cache import Cache, PromptCache
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig

HEADS, DIMS = 2, 4


@pytest.fixture(scope="module", autouse=True)
def small_buffers() -> Iterator[None]:
    """Buffers that are full after a few tokens, so that short texts move them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "STEP", 4)
        patch.setattr(cache_module, "SLACK", 3)
        yield


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
        [mask] = cache.masks(size)
        found.append(np.array(layer.attend(q, k, v, 1.0, mask)))
        begin += size
        assert cache.offset == begin
        assert cache.can_trim(min(3, begin))
        most = layer.window + 3 + 9 + 4  # the window, what can be dropped, a chunk, a step
        assert max(each.shape[2] for each in cache.arrays()) <= most
    return found


@given(walks(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
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


@given(walks(), st.data(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_dropped_tokens_leave_no_trace(
    walk: tuple[list[int], int, list[int]], data: st.DataObject, seed: int
):
    chunks, window, padding = walk
    shape = (len(padding), HEADS, sum(chunks) + 3 * len(chunks), DIMS)
    arrays = list(np.random.default_rng(seed).normal(size=(3, *shape)))
    cache, begin = Cache([window], padding), 0
    for size in chunks:
        wrong = data.draw(st.integers(0, 3))  # as many as can always be dropped
        run(cache, [each + 1 for each in arrays], [wrong] if wrong else [], begin)
        assert cache.can_trim(wrong)
        cache.trim(wrong)
        found = run(cache, arrays, [size], begin)[0]
        for row, pad in enumerate(padding):
            first = max(pad, begin)
            expected = attention(*(each[row, :, : begin + size] for each in arrays), window, pad)
            np.testing.assert_allclose(
                found[row, :, first - begin :], expected[:, first:], atol=1e-5
            )
        begin += size


def test_a_window_that_moved_on_refuses_to_go_back_further():
    cache = Cache([2, 1 << 30])
    q = mx.zeros((1, 1, 40, DIMS))
    for layer in cache.layers:
        layer.attend(q, q, q, 1.0, None)
    assert cache.can_trim(40)  # nothing was left behind
    one = mx.zeros((1, 1, 1, DIMS))
    for layer in cache.layers:
        layer.attend(one, one, one, 1.0, None)
    assert cache.can_trim(3)
    assert not cache.can_trim(20)
    with pytest.raises(ValueError, match="cannot drop 20 of 41 tokens: the windows moved on"):
        cache.trim(20)
    assert not cache.can_trim(42)


@given(walks(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_quantized_keys_and_values_are_attended_to_as_they_are_stored(
    walk: tuple[list[int], int, list[int]], seed: int
):
    chunks, window, padding = walk
    shape = (len(padding), HEADS, sum(chunks), 32)
    q, k, v = np.random.default_rng(seed).normal(scale=0.3, size=(3, *shape)).astype(np.float32)
    cache = Cache([window], padding)
    cache.quantize(8, 32)
    found = np.concatenate(run(cache, [q, k, v], chunks), axis=2)
    stored = [
        mx.dequantize(*mx.quantize(mx.array(each), group_size=32, bits=8), group_size=32, bits=8)
        for each in (k, v)
    ]
    assert cache.nbytes < 0.35 * sum(each.nbytes for each in plain_arrays(cache, 32))
    for row, pad in enumerate(padding):
        arrays = (q[row], *(np.array(each)[row] for each in stored))
        expected = attention(*arrays, window, pad)
        np.testing.assert_allclose(found[row, :, pad:], expected[:, pad:], atol=1e-5)


def plain_arrays(cache: Cache, dims: int) -> list[mx.array]:
    """Return arrays as large as the keys and values would be without quantization."""
    rows, heads, tokens, _ = cache.arrays()[0].shape
    return [mx.zeros((rows, heads, tokens, dims))] * 2


def test_quantization_refuses_other_bits_and_a_cache_in_use():
    cache = Cache([4])
    with pytest.raises(ValueError, match="4 or 8 bits in groups of 32, 64 or 128, got 3 and 64"):
        cache.quantize(3, 64)
    q = mx.zeros((1, 1, 2, 32))
    cache.layers[0].attend(q, q, q, 1.0, None)
    with pytest.raises(ValueError, match="before its first token, it has 2"):
        cache.quantize(8, 32)


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
    held = [layer.parts[0].shape[2] for layer in cache.layers]
    assert held[1] >= 40
    assert held[0] == held[2] <= 5 + 3 + 4 + chunks[-1]


@pytest.mark.parametrize("drop", [1, 2, 3])
def test_the_model_reads_on_after_dropped_tokens(narrow: Nanochat, drop: int):
    ids, wrong = ids_of(40), ids_of(40, seed=1)
    expected, cache = np.array(narrow(ids)), narrow.make_cache()
    narrow(ids[:, :20], cache)
    for t in range(20, 40):
        narrow(wrong[:, :drop], cache)
        cache.trim(drop)
        found = narrow(ids[:, t : t + 1], cache)
        np.testing.assert_allclose(found, expected[:, t : t + 1], atol=1e-5)


@pytest.mark.parametrize(("shared", "kept"), [(30, 30), (12, 12), (2, None), (0, None)])
def test_what_two_prompts_have_in_common_is_read_once(
    narrow: Nanochat, shared: int, kept: int | None
):
    first, second = ids_of(30), ids_of(40, seed=1)
    second[:, :shared] = first[:, :shared]
    cache, prompts = narrow.make_cache(), PromptCache()
    narrow(first[:, :10], cache)
    narrow(first[:, 10:], cache)
    prompts.store(first[0].tolist(), cache)
    again = prompts.take(second[0].tolist())
    assert (again.offset if again else None) == kept  # at 2, the windows have moved on
    if again:
        found = narrow(second[:, kept:], again)
        np.testing.assert_allclose(found, narrow(second)[:, kept:], atol=1e-5)
    assert prompts.take(second[0].tolist()) is None  # it was removed


def test_a_prompt_that_was_read_whole_keeps_all_but_its_last_token(narrow: Nanochat):
    ids, cache, prompts = ids_of(9), narrow.make_cache(), PromptCache()
    narrow(ids, cache)
    prompts.store(ids[0].tolist(), cache)
    again = prompts.take(ids[0].tolist())
    assert again
    assert again.offset == 8


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
    held = [layer.parts[0].shape[2] for layer in cache.layers]
    assert held[0] <= 128 + 3 + 4 + 1
    assert held[1] <= 256 + 3 + 4 + 1


def test_a_cache_of_nothing_holds_nothing():
    cache = Cache([4, 8], [0, 0])
    assert cache.left_padding is None
    assert (cache.offset, cache.nbytes, cache.arrays()) == (0, 0, [])
