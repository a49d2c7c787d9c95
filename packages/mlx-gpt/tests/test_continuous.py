"""Texts in a running batch are those of the same requests alone."""

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from serve_models import CONTEXT, FAMILIES, Steps, make_engine, make_model

from mlx_gpt.engine import Engine, Request, Sampling, Speculation
from mlx_gpt.models import cache as caches
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.ragged import RaggedCache, first_tokens
from mlx_gpt.models.rope import rotate
from mlx_gpt.serve.generation import Generate
from mlx_gpt.tokenizer import Tokenizer

GREEDY = Sampling(temperature=0)
SETTINGS = (
    GREEDY,
    Sampling(seed=3),
    Sampling(temperature=0.8, top_p=0.9, top_k=30, seed=5),
    Sampling(temperature=0, repetition_penalty=1.3, frequency_penalty=0.5, logit_bias={3: 2.0}),
)


def requests_of(rng: random.Random, count: int) -> list[Generate]:
    """Return requests of all lengths; some begin as others, or are the same."""
    found: list[Generate] = []
    for _ in range(count):
        prompt = tuple(rng.randrange(250) for _ in range(rng.choice([1, 3, 8, 20, 40, 60])))
        if found and rng.random() < 0.4:
            other = rng.choice(found).prompt
            prompt = rng.choice([other, (other + prompt)[:60]])
        found.append(Generate(prompt, rng.randint(1, CONTEXT - 60), rng.choice(SETTINGS)))
    return found


def alone(engine: Engine, given: Generate) -> list[int]:
    return engine.generate([Request(given.prompt, given.max_tokens, given.sampling)])[0].ids


@pytest.mark.parametrize(
    ("family", "seed", "options"),
    [
        *[(family, seed, {}) for seed, family in enumerate(FAMILIES)],
        ("llama", 10, {"prefill_chunk": 5, "prefix_cache_bytes": 0}),
        ("nanochat", 11, {"max_batch": 2, "speculation": Speculation(3, 2)}),
        ("llama", 12, {"quantized": {"head_dim": 32, "kv_bits": 8, "kv_group_size": 32}}),
        *[(family, 20 + seed, {"moving": True}) for seed, family in enumerate(FAMILIES)],
    ],
)
def test_any_batch_gives_the_texts_of_the_single_requests(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    seed: int,
    options: dict[str, Any],
):
    options = dict(options)
    if options.pop("moving", False):  # buffers grow, windows move on and padding is dropped often
        monkeypatch.setattr(caches, "STEP", 8)
        monkeypatch.setattr(caches, "SLACK", 4)
    speculation = options.pop("speculation", None)
    quantized = options.pop("quantized", {})
    plain = make_engine(tokenizer, family, **quantized)
    steps = Steps(make_engine(tokenizer, family, speculation=speculation, **quantized), **options)
    rng = random.Random(seed)
    asked = []
    for given in requests_of(rng, 10):
        asked.append((given, *steps.ask(given)))
        for _ in range(rng.choice([0, 0, 1, 5, 20])):
            steps.loop.step()
        if rng.random() < 0.2:
            rng.choice(asked)[1].cancelled = True
    steps.finish()
    for given, _, heard in asked:
        expected = alone(plain, given)
        if heard.reason == "cancelled":
            expected = expected[: len(heard.tokens)]
        assert heard.tokens == expected
        assert heard.reason in ("length", "cancelled")
    assert not steps.counts["failures"]


@pytest.mark.parametrize(("family", "bits"), [*[(each, 0) for each in FAMILIES], ("llama", 8)])
def test_a_row_is_what_it_was_before_it_joined_others(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, family: str, bits: int
):
    monkeypatch.setattr(caches, "STEP", 8)
    monkeypatch.setattr(caches, "SLACK", 4)
    model = make_model(family, 300, head_dim=32 if bits else 8)
    batch = RaggedCache([layer.window for layer in model.make_cache().layers])
    rng = random.Random(0)
    rows: list[Cache] = []

    def read(length: int) -> Cache:
        alone = model.make_cache()
        if bits:
            alone.quantize(bits, 32)
        ids = mx.array([[rng.randrange(300) for _ in range(length)]])
        for begin in range(0, length, 4):  # so that windows move on
            mx.eval(model.hidden_states(ids[:, begin : begin + 4], alone), alone.arrays())
        if length % 2:  # as from the prefix cache, with less than the window and its slack
            kept = first_tokens(alone, length - 3)
            assert kept is not None
            return kept
        return alone

    for lengths in ((17, 30), (40,), (2,), (33, 26), (12,), (39,), (24, 41), (42, 33)):
        joining = [read(length) for length in lengths]
        batch.join(joining)
        rows += joining
        while len(rows) > 2:
            kept = batch.leave([rng.randrange(len(rows))])
            rows = [rows[place] for place in kept]
        for place, row in enumerate(rows):
            found = batch.row(place)
            assert found is not None
            expected = first_tokens(row, None)
            assert expected is not None
            assert found.offset == expected.offset
            for one, other in zip(found.buffers(), expected.buffers(), strict=True):
                # What it says to have it has.
                assert one.begin >= other.begin
                count = one.offset - one.begin
                assert count >= min(one.offset, one.window)
                for a, b in zip(one.parts, other.parts, strict=True):
                    np.testing.assert_array_equal(a[:, :, -count:], b[:, :, -count:])


@pytest.mark.parametrize("tokens", [1, 3, 12])
def test_rows_turn_as_each_would_alone(tokens: int):
    x, offsets = mx.random.normal((3, 4, tokens, 16), key=mx.random.key(0)), [5, 0, 700]
    for base, scale, freqs in (
        (1e4, 0.5, None),
        (1e5, -1.0, None),
        (None, 1.0, mx.arange(1, 9) * 3.0),
    ):
        found = rotate(x, mx.array(offsets), base=base, scale=scale, freqs=freqs)
        for row, offset in enumerate(offsets):
            alone = rotate(x[row : row + 1], offset, base=base, scale=scale, freqs=freqs)
            # float32 angles of position 700 are wrong by 4e-5.
            np.testing.assert_allclose(found[row : row + 1], alone, atol=3e-4)


def test_padding_does_not_grow_without_bound(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caches, "STEP", 8)
    steps = Steps(make_engine(tokenizer), max_batch=2, prefix_cache_bytes=0)
    for i in range(30):  # there is always one in the batch, and one that waits for its slot
        steps.ask(Generate((i, 2, 3, 4, 5), 6 + i % 5, GREEDY))
    widest = 0
    while steps.loop.waiting:
        steps.loop.step()
        widest = max(widest, steps.loop.batch.cache.offset)
    assert widest < 40


def test_a_text_that_is_compacted_away_leaves_no_padding_to_one_that_is_alone(tokenizer):
    steps = Steps(make_engine(tokenizer))
    steps.ask(Generate(tuple(range(50)), 3, GREEDY))
    steps.ask(Generate((1, 2, 3), 30, GREEDY))
    while len(steps.loop.running) < 2 or steps.loop.readings:
        steps.loop.step()
    while len(steps.loop.running) == 2:
        steps.loop.step()
    assert steps.loop.batch.cache.left_padding is None
