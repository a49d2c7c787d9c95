"""What was read for one request is not read again for another."""

import mlx.core as mx
import pytest
from serve_models import Steps, make_engine, make_model

from mlx_gpt.engine import Sampling
from mlx_gpt.engine.prefix_cache import PrefixCache
from mlx_gpt.models import cache as caches
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.ragged import first_tokens
from mlx_gpt.serve.generation import Generate
from mlx_gpt.tokenizer import Tokenizer

GREEDY = Sampling(temperature=0)
PROMPT = tuple(range(1, 31))


def read(model: Decoder, ids: tuple[int, ...]) -> Cache:
    cache = model.make_cache()
    mx.eval(model.hidden_states(mx.array([ids]), cache))
    return cache


def store(prefix: PrefixCache, model: Decoder, ids: tuple[int, ...], adapter=None) -> None:
    prefix.store(adapter, ids, lambda: first_tokens(read(model, ids), None))


@pytest.fixture
def model() -> Decoder:
    return make_model("llama", 300)


def test_a_text_is_found_by_its_longest_beginning_and_never_whole(model: Decoder):
    prefix = PrefixCache(1 << 20)
    store(prefix, model, PROMPT)
    store(prefix, model, (*PROMPT[:10], 99))
    for prompt, expected in [
        (PROMPT, 29),
        ((*PROMPT, 7, 8), 30),
        ((*PROMPT[:10], 99, 98), 11),
        (PROMPT[:10], 9),
    ]:
        cache = prefix.find(None, prompt)
        assert cache is not None
        assert cache.offset == expected
        rest = mx.array([prompt[expected:]])
        found = model.hidden_states(rest, cache)[:, -1]
        whole = model.hidden_states(mx.array([prompt]))[:, -1]
        assert mx.allclose(found, whole, atol=1e-4)
    assert prefix.find(None, (88, *PROMPT)) is None
    assert prefix.find(None, PROMPT[:1]) is None
    assert (prefix.hits, prefix.tokens) == (4, 29 + 30 + 11 + 9)


def test_a_text_in_a_longer_one_is_stored_once(model: Decoder):
    prefix = PrefixCache(1 << 20)
    for count in (5, 30, 12):
        store(prefix, model, PROMPT[:count])
    assert len(prefix) == 1
    cache = prefix.find(None, (*PROMPT, 1))
    assert cache is not None
    assert cache.offset == 30


def test_those_used_longest_ago_are_removed_when_the_bytes_are_used_up(model: Decoder):
    size = read(model, PROMPT).nbytes // 256 * 30
    prefix = PrefixCache(2 * size + 10)
    texts = [(first, *PROMPT[1:]) for first in (100, 101, 102)]
    store(prefix, model, texts[0])
    store(prefix, model, texts[1])
    assert prefix.nbytes == 2 * size
    assert prefix.find(None, texts[0])  # used later than the other one
    store(prefix, model, texts[2])
    assert prefix.nbytes == 2 * size
    assert [prefix.find(None, each) is not None for each in texts] == [True, False, True]
    store(prefix, model, PROMPT * 3)  # more than all
    assert prefix.nbytes == 2 * size
    prefix.clear()
    assert (prefix.nbytes, len(prefix)) == (0, 0)


def test_an_adapter_finds_only_its_own_texts(model: Decoder):
    prefix = PrefixCache(1 << 20)
    store(prefix, model, PROMPT, "a")
    assert prefix.find("b", PROMPT) is None
    assert prefix.find(None, PROMPT) is None
    assert prefix.find("a", PROMPT) is not None


def test_a_window_that_moved_on_is_no_beginning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caches, "STEP", 4)
    monkeypatch.setattr(caches, "SLACK", 4)
    model = make_model("mistral", 300)  # a window of 9 tokens
    prefix = PrefixCache(1 << 20)
    store(prefix, model, PROMPT[:10])
    store(prefix, model, PROMPT)
    assert len(prefix) == 2
    for count, expected in [(31, 30), (28, 27), (16, 10)]:
        cache = prefix.find(None, (*PROMPT[: count - 1], 77))
        assert cache is not None
        assert cache.offset == expected


@pytest.mark.parametrize("family", ["llama", "nanochat", "gpt2"])
def test_the_next_turn_reads_only_what_is_new_and_says_the_same(tokenizer: Tokenizer, family: str):
    with_cache, without = (
        Steps(make_engine(tokenizer, family), prefix_cache_bytes=each) for each in (1 << 20, 0)
    )
    first = with_cache.answer(Generate(PROMPT, 10, GREEDY))
    assert first.deltas[0].cached_tokens == 0
    again = with_cache.answer(Generate(PROMPT, 10, GREEDY))
    assert again.tokens == first.tokens
    assert {each.cached_tokens for each in again.deltas} == {29}
    turn = (*PROMPT, *first.tokens, 5, 6, 7)
    second = with_cache.answer(Generate(turn, 10, GREEDY))
    assert second.tokens == without.answer(Generate(turn, 10, GREEDY)).tokens
    # The last token of an answer is not always read.
    assert second.deltas[0].cached_tokens in (39, 40)
    assert with_cache.counts["cached"] == 29 + second.deltas[0].cached_tokens
    assert len(without.loop.prefix) == without.counts["cached"] == 0
