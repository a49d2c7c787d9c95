"""Texts in a running batch are those of the same requests alone."""

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from serve_models import CONTEXT, FAMILIES, Steps, make_engine, make_model

from mlx_gpt.engine import Engine, Request, Sampling, Speculation
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.ragged import RaggedCache, first_tokens
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
    ],
)
def test_any_batch_gives_the_texts_of_the_single_requests(
    tokenizer: Tokenizer, family: str, seed: int, options: dict[str, Any]
):
    speculation = options.pop("speculation", None)
    plain = make_engine(tokenizer, family)
    steps = Steps(make_engine(tokenizer, family, speculation=speculation), **options)
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
