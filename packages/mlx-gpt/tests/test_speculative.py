"""Guessed tokens change the speed, not the text."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_map

from mlx_gpt.engine import Engine, PromptCache, Request, Sampling, Speculation
from mlx_gpt.engine.drafts import ModelDraft, NgramDraft, check_draft
from mlx_gpt.models import cache as cache_module
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.models.nanochat_2025 import Nanochat2025, Nanochat2025Config
from mlx_gpt.tokenizer import Tokenizer

GREEDY = Sampling(temperature=0)


class Narrow(NanochatConfig):
    """Windows far shorter than the texts here."""

    @property
    def windows(self) -> list[int]:
        return [5, 64]


def nanochat(vocab_size: int) -> Nanochat:
    config = Narrow(
        sequence_len=64, vocab_size=vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32
    )
    return Nanochat(config).initialize(mx.random.key(0))


def nanochat_2025(vocab_size: int) -> Nanochat2025:
    config = Nanochat2025Config(
        sequence_len=64, vocab_size=vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32
    )
    return Nanochat2025(config).initialize(mx.random.key(0))


def llama(vocab_size: int) -> Llama:
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
        windows=(4, cache_module.NO_WINDOW),
    )  # fmt: skip
    mx.random.seed(0)
    return Llama(config)


@pytest.fixture(params=[nanochat, nanochat_2025, llama], scope="module")
def model(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Decoder:
    """A model that repeats itself, so that guesses are sometimes right."""
    model = request.param(tokenizer.vocab_size)
    random = np.random.default_rng(1)
    model.update(
        tree_map(
            lambda p: p + mx.array(random.normal(scale=0.1, size=p.shape).astype(np.float32)),
            model.parameters(),
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "STEP", 8)  # buffers move within the short texts here
        patch.setattr(cache_module, "SLACK", 8)
        yield model


def engines(model: Decoder, tokenizer: Tokenizer, guess: Speculation, **options) -> list[Engine]:
    ends = options.pop("end_ids", ())
    return [
        Engine(model, tokenizer, end_ids=ends, prefill_chunk=16, speculation=each, **options)
        for each in (None, guess)
    ]


PROMPTS = ["the fox the fox the", "What is 12 times 7?", "", "strawberry " * 6, "abab" * 5]


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("by_model", [False, True])
def test_greedy_text_is_that_without_guesses(
    model: Decoder, tokenizer: Tokenizer, tokens: int, by_model: bool
):
    guess = Speculation(tokens, model=model if by_model else None)
    plain, guessing = engines(model, tokenizer, guess)
    prompts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in PROMPTS]
    requests = [Request(each, 24, GREEDY, log_probabilities=True) for each in prompts]
    for expected, found in zip(
        plain.generate(requests, max_batch=1), guessing.generate(requests), strict=True
    ):
        assert (found.ids, found.text, found.finish_reason) == (
            expected.ids, expected.text, expected.finish_reason
        )  # fmt: skip
        np.testing.assert_allclose(found.log_probabilities, expected.log_probabilities, atol=1e-4)
    counts = guessing.counts
    assert counts.tokens == 23 * len(PROMPTS)
    assert counts.tokens == counts.passes + counts.accepted
    if by_model:  # the model agrees with itself
        assert counts.accepted == counts.guessed
        assert counts.passes <= 24 * len(PROMPTS) / (tokens + 1) + len(PROMPTS)
    else:
        assert 0 < counts.accepted < counts.guessed


def test_sampled_text_is_that_without_guesses(model: Decoder, tokenizer: Tokenizer):
    plain, guessing = engines(model, tokenizer, Speculation(4, ngram=1))
    requests = [
        Request([tokenizer.bos_id, *tokenizer.encode(text)], 16, sampling)
        for text in PROMPTS[:3]
        for sampling in (
            Sampling(0.1, top_k=3, seed=7),
            Sampling(1.0, top_p=0.5, seed=8, repetition_penalty=1.2, presence_penalty=0.1),
            Sampling(0, frequency_penalty=0.3, logit_bias={9: 1.0}),
        )
    ]
    expected = plain.generate(requests, max_batch=1)
    assert [each.ids for each in guessing.generate(requests)] == [each.ids for each in expected]
    assert guessing.counts.accepted > 0


def test_stops_and_ends_are_those_without_guesses(model: Decoder, tokenizer: Tokenizer):
    prompt = [tokenizer.bos_id, *tokenizer.encode("What is ")]
    requests = [
        Request(prompt, 60, Sampling(seed=3), stop=("e", "the")),
        Request(prompt, 60, Sampling(seed=4)),
    ]
    ends = range(280, 330)
    plain, guessing = engines(model, tokenizer, Speculation(3, ngram=1), end_ids=ends)
    expected = plain.generate(requests, max_batch=1)
    assert {each.finish_reason for each in expected} == {"stop"}
    assert guessing.generate(requests) == expected


def test_tools_answer_as_without_guesses(model: Decoder, tokenizer: Tokenizer):
    start, end = (tokenizer.special(f"<|python_{each}|>") for each in ("start", "end"))
    call = dict.fromkeys((start, end, *tokenizer.encode("7")), 12.0)
    requests = [Request([1, 2], 30, Sampling(seed=i, logit_bias=call)) for i in range(3)]
    plain, guessing = engines(model, tokenizer, Speculation(3, ngram=1))
    expected = plain.generate(requests, max_batch=1)
    assert any(0 in each.mask for each in expected)
    assert guessing.generate(requests) == expected


def test_a_conversation_goes_on_from_what_was_read(model: Decoder, tokenizer: Tokenizer):
    plain, guessing = engines(model, tokenizer, Speculation(5))
    first = Request([tokenizer.bos_id, *tokenizer.encode("the fox the")], 20, GREEDY)
    cache = PromptCache()
    answer = [piece.token for piece in guessing.stream([first], cache)]
    assert len(cache.ids) >= len(first.prompt) + 15
    second = Request([*first.prompt, *answer, *tokenizer.encode(" What is")], 20, GREEDY)
    assert cache.cache
    found = [piece.token for piece in guessing.stream([second], cache)]
    assert found == plain.generate([second])[0].ids


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 4))
@settings(deadline=None, max_examples=200)
def test_ngrams_guess_what_followed_the_latest_same_tokens(ids: list[int], longest: int):
    draft = NgramDraft(longest)
    for length in range(1, len(ids) + 1):
        text = ids[:length]
        expected: list[int] = []
        for n in range(longest, min(longest, 2) - 1, -1):
            places = [i for i in range(n, length) if n < length and text[i - n : i] == text[-n:]]
            if places:
                expected = text[places[-1] : places[-1] + 3]
                break
        assert draft.propose(text, 3) == expected
    assert draft.propose([7, *ids], 3) == NgramDraft(longest).propose([7, *ids], 3)  # another text


def test_a_draft_model_reads_corrected_texts(model: Decoder, tokenizer: Tokenizer):
    draft = ModelDraft(model, chunk=4)
    texts = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [1, 2, 3], [7, 8]]
    for text in texts:
        expected = list(text)
        for _ in range(3):
            expected.append(int(model(mx.array([expected]))[0, -1].argmax()))
        assert draft.propose(text, 3) == expected[len(text) :]


def test_another_tokenizer_is_refused(tokenizer: Tokenizer, texts: list[str]):
    check_draft(tokenizer, tokenizer)
    smaller = Tokenizer.train(texts, vocab_size=300)
    with pytest.raises(ValueError, match="another tokenizer than the model: they have 384 and 300"):
        check_draft(tokenizer, smaller)
    other = Tokenizer.train(texts[::-1] + ["zzzz zzzz zzzz qqqq"] * 90, vocab_size=384)
    with pytest.raises(ValueError, match=r"another tokenizer than the model: id \d+ is '.*' and"):
        check_draft(tokenizer, other)


def test_wrong_settings_are_refused(model: Decoder, tokenizer: Tokenizer):
    with pytest.raises(ValueError, match="guess 1 to 7 tokens at a time, got 8"):
        Speculation(8)
    with pytest.raises(ValueError, match="ngram must be 1 or more, got 0"):
        Speculation(ngram=0)
    engine = Engine(model, tokenizer, speculation=Speculation())
    with pytest.raises(ValueError, match="for one request, got 2"):
        engine.start([Request([1], 2), Request([1], 2)])
