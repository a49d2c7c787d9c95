import re
import threading
import weakref
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.engine import Engine, Piece, PromptCache, Request, Sampling
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.tokenizer import Tokenizer

GREEDY = Sampling(temperature=0)


class Narrow(NanochatConfig):
    """Windows shorter than the prompts here, and than the 128 that nanochat's rule gives."""

    @property
    def windows(self) -> list[int]:
        return [5, 64]


class Watched(Nanochat):
    """Counts what goes through it, and may be interrupted in the middle."""

    def __init__(self, config: NanochatConfig):
        super().__init__(config)
        self._shapes: list[tuple[int, ...]] = []
        self._interrupt_at = -1
        self._caches: weakref.WeakSet[Cache] = weakref.WeakSet()
        self._most_caches = 0

    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        self._shapes.append(tuple(ids.shape))
        if cache:
            self._caches.add(cache)
        self._most_caches = max(self._most_caches, len(self._caches))
        found = super().hidden_states(ids, cache)
        if len(self._shapes) == self._interrupt_at:
            raise KeyboardInterrupt
        return found


@pytest.fixture
def model(tiny_model: Nanochat) -> Watched:
    """The tiny model with a window of 5 in its first layer."""
    sizes = {name: getattr(tiny_model.config, name) for name in NanochatConfig.__dataclass_fields__}
    model = Watched(Narrow(**sizes))
    model.update(tiny_model.parameters())
    return model


@pytest.fixture
def engine(model: Watched, tokenizer: Tokenizer) -> Engine:
    """An engine that ends at no token, as a model without training says anything."""
    return Engine(model, tokenizer, tools=False, end_ids=())


@pytest.fixture
def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    texts = ["The quick brown fox jumps over", "What is 12 times 7?", "", "strawberry " * 12]
    return [[tokenizer.bos_id, *ids] for ids in tokenizer.encode_batch(texts)]


def greedy_by_full_forward(model: Nanochat, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(mx.array([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("chunk", [512, 4, 1])
def test_greedy_tokens_are_those_of_the_full_forward(
    model: Watched, tokenizer: Tokenizer, prompts: list[list[int]], chunk: int
):
    engine = Engine(model, tokenizer, tools=False, end_ids=(), prefill_chunk=chunk)
    found = engine.generate(Request(prompt, 12, GREEDY) for prompt in prompts)
    for prompt, completion in zip(prompts, found, strict=True):
        assert completion.ids == greedy_by_full_forward(model, prompt, 12)
        assert completion.mask == [1] * 12
        assert completion.finish_reason == "length"
        assert completion.text == tokenizer.decode(completion.ids)


def test_no_more_than_a_chunk_is_read_at_a_time(
    model: Watched, tokenizer: Tokenizer, prompts: list[list[int]]
):
    Engine(model, tokenizer, prefill_chunk=4).generate([Request(prompts[0], 1)])
    length = len(prompts[0])
    assert model._shapes == [(1, min(4, length - begin)) for begin in range(0, length, 4)]


def test_a_prompt_longer_than_the_model_was_made_for_goes_on(
    engine: Engine, model: Watched, tokenizer: Tokenizer
):
    prompt = [tokenizer.bos_id, *range(100, 170)]
    assert len(prompt) > model.config.sequence_len
    [completion] = engine.generate([Request(prompt, 5, GREEDY)])
    assert completion.ids == greedy_by_full_forward(model, prompt, 5)


SETTINGS = [
    Sampling(seed=1),
    Sampling(temperature=0.7, top_k=20, seed=2),
    GREEDY,
    Sampling(temperature=1.2, top_p=0.9, min_p=0.01, seed=3),
]


def test_each_request_is_answered_as_alone(engine: Engine, prompts: list[list[int]]):
    requests = [
        Request(prompt, count, sampling, log_probabilities=True)
        for prompt, count, sampling in zip(prompts, [3, 20, 9, 14], SETTINGS, strict=True)
    ]
    together = engine.generate(requests)
    for request, completion in zip(requests, together, strict=True):
        [alone] = engine.generate([request])
        assert replace(completion, log_probabilities=None) == replace(alone, log_probabilities=None)
        np.testing.assert_allclose(completion.log_probabilities, alone.log_probabilities, atol=1e-5)
    in_turns = engine.generate(requests, max_batch=2)
    assert [each.ids for each in in_turns] == [each.ids for each in together]


def test_log_probabilities_are_the_models(engine: Engine, model: Watched, prompts: list[list[int]]):
    prompt = prompts[0]
    [completion] = engine.generate([Request(prompt, 8, SETTINGS[1], log_probabilities=True)])
    logits = np.array(model(mx.array([prompt + completion.ids]))[0, len(prompt) - 1 : -1])
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = expected[np.arange(8), completion.ids]
    np.testing.assert_allclose(completion.log_probabilities, chosen, atol=1e-5)


def test_equal_prompts_are_read_once(engine: Engine, model: Watched, prompts: list[list[int]]):
    request = Request(prompts[0], 5, Sampling(seed=4))
    found = engine.generate([*request.repeat(3), Request(prompts[1], 5, GREEDY)])
    assert model._shapes[0] == (2, max(len(prompts[0]), len(prompts[1])))
    assert model._shapes[1:] == [(4, 1)] * 4
    alone = [engine.generate([each])[0] for each in request.repeat(3)]
    assert found[:3] == alone
    assert found[0].ids != found[1].ids != found[2].ids


def test_one_batch_is_in_memory_at_a_time(engine: Engine, model: Watched, prompts: list[list[int]]):
    engine.generate([Request(prompt, 3) for prompt in prompts], max_batch=1)
    assert model._most_caches == 1


def test_rows_that_end_leave_the_batch(engine: Engine, model: Watched, prompts: list[list[int]]):
    counts = [2, 7, 1, 5]
    requests = [Request(p, n, GREEDY) for p, n in zip(prompts, counts, strict=True)]
    found = engine.generate(requests)
    assert [len(each.ids) for each in found] == counts
    # After the prompts, rows go through the model once for each token but the last.
    rows = [shape[0] for shape in model._shapes[1:]]
    assert rows == [4, 3, 2, 2, 2, 1]


def test_rows_end_at_end_ids_which_are_not_part_of_the_answer(
    engine: Engine, model: Watched, tokenizer: Tokenizer, prompts: list[list[int]]
):
    free = engine.generate([Request(p, 10, GREEDY) for p in prompts])
    end = free[1].ids[4]
    ended = Engine(model, tokenizer, tools=False, end_ids=[end]).generate(
        [Request(p, 10, GREEDY) for p in prompts]
    )
    for long, short in zip(free, ended, strict=True):
        expected = long.ids[: long.ids.index(end)] if end in long.ids else long.ids
        assert short.ids == expected
        assert short.finish_reason == ("stop" if end in long.ids else "length")
    assert ended[1].text == tokenizer.decode(ended[1].ids)


def test_by_default_rows_end_where_the_tokenizer_says(model: Watched, tokenizer: Tokenizer):
    end = tokenizer.special("<|assistant_end|>")
    assert Engine(model, tokenizer).end_ids == {tokenizer.bos_id, end}


def test_generation_stops_at_a_stop_string_and_the_text_before_it(
    engine: Engine, tokenizer: Tokenizer, prompts: list[list[int]]
):
    [free] = engine.generate([Request(prompts[0], 30, GREEDY)])
    # Whole characters, from the middle of one token to the middle of a later one if there are such.
    found = re.search("[ -~]{4}", free.text[1:])
    assert found
    stop = found.group()
    begin = free.text.index(stop)
    [completion] = engine.generate([Request(prompts[0], 30, GREEDY, stop=("no such", stop))])
    assert completion.text == free.text[:begin]
    assert completion.finish_reason == "stop"
    assert stop in tokenizer.decode(completion.ids)
    assert stop not in tokenizer.decode(completion.ids[:-1])
    assert free.ids[: len(completion.ids)] == completion.ids


def test_pieces_of_a_stream_join_to_the_completions(
    engine: Engine, tokenizer: Tokenizer, prompts: list[list[int]]
):
    counts = [3, 20, 9, 14]
    requests = [Request(p, n, s) for p, n, s in zip(prompts, counts, SETTINGS, strict=True)]
    pieces: list[list[Piece]] = [[], [], [], []]
    for piece in engine.stream(requests):
        pieces[piece.index].append(piece)
    for row, completion in zip(pieces, engine.generate(requests), strict=True):
        assert [each.token for each in row] == completion.ids
        assert "".join(each.text for each in row) == completion.text
        assert [each.finish_reason for each in row] == [None] * (len(row) - 1) + ["length"]


def test_a_cancelled_request_ends_and_the_others_do_not_notice(
    engine: Engine, prompts: list[list[int]]
):
    requests = [Request(p, 10, GREEDY) for p in prompts]
    generation = engine.start(requests)
    first = [generation.step(), generation.step()]
    assert [len(each) for each in first] == [4, 4]
    generation.cancel(1)
    [last] = [piece for piece in generation.step() if piece.index == 1]
    assert (last.token, last.finish_reason) == (None, "cancelled")
    while generation.active:
        assert 1 not in [piece.index for piece in generation.step()]
    expected, found = engine.generate(requests), generation.completions()
    assert found[1].ids == expected[1].ids[:2]
    assert found[1].finish_reason == "cancelled"
    assert [found[i] for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]
    assert generation.step() == []


def test_a_closed_stream_computes_nothing_more(
    engine: Engine, model: Watched, prompts: list[list[int]]
):
    stream = engine.stream([Request(prompts[0], 100, GREEDY)])
    next(stream)
    before = len(model._shapes)
    stream.close()
    assert list(stream) == []
    assert len(model._shapes) == before


def turns(engine: Engine, prompt_cache: PromptCache | None, *parts: list[int]) -> list[list[int]]:
    """Return the answers of a conversation in which the user says `parts`."""
    ids, answers = [], []
    for part in parts:
        ids += part
        pieces = engine.stream([Request(ids, 6, GREEDY)], prompt_cache)
        answers.append([piece.token for piece in pieces if piece.token is not None])
        ids += answers[-1]
    return answers


def test_with_a_prompt_cache_a_turn_reads_only_what_is_new(
    engine: Engine, model: Watched, prompts: list[list[int]]
):
    expected = turns(engine, None, *prompts)
    model._shapes.clear()
    cache = PromptCache()
    assert turns(engine, cache, *prompts) == expected
    read = [shape[1] for shape in model._shapes if shape[1] > 1]
    # The last token of an answer has not been read yet: nothing came after it.
    assert read == [len(prompts[0]), *(len(part) + 1 for part in prompts[1:])]
    assert cache.cache is not None
    assert len(cache.ids) == cache.cache.offset
    assert cache.nbytes > 0


def test_the_same_prompt_again_gets_the_same_answer(engine: Engine, prompts: list[list[int]]):
    cache, request = PromptCache(), Request(prompts[0], 1, GREEDY)
    first = [piece.token for piece in engine.stream([request], cache)]
    assert cache.ids == prompts[0]
    assert [piece.token for piece in engine.stream([request], cache)] == first


def test_a_prompt_cache_starts_again_where_the_prompt_is_another(
    engine: Engine, prompts: list[list[int]]
):
    cache = PromptCache()
    turns(engine, cache, prompts[0])
    for prompt in (prompts[3] * 2, prompts[0] * 3, prompts[0] * 3, prompts[0][:3]):
        assert turns(engine, cache, prompt) == turns(engine, None, prompt)


def test_a_stream_closed_in_the_middle_leaves_a_prompt_cache_that_can_be_used(
    engine: Engine, prompts: list[list[int]]
):
    cache = PromptCache()
    stream = engine.stream([Request(prompts[0], 50, GREEDY)], cache)
    begun = [next(stream).token for _ in range(4)]
    stream.close()
    assert cache.ids == [*prompts[0], *begun]
    longer = [*prompts[0], *begun, *prompts[1]]
    assert turns(engine, cache, longer) == turns(engine, None, longer)


@pytest.mark.parametrize("at", [2, 4])
def test_what_was_interrupted_in_the_middle_of_a_step_is_not_used_again(
    engine: Engine, model: Watched, prompts: list[list[int]], at: int
):
    cache = PromptCache()
    model._interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        turns(engine, cache, prompts[0])
    assert cache.cache is None
    assert turns(engine, cache, prompts[0]) == turns(engine, None, prompts[0])


def test_ids_that_are_no_tokens_are_never_drawn(tokenizer: Tokenizer, prompts: list[list[int]]):
    config = NanochatConfig(
        sequence_len=64, vocab_size=tokenizer.vocab_size + 640, n_layer=1, n_head=2, n_kv_head=2,
        n_embd=32,
    )  # fmt: skip
    engine = Engine(Nanochat(config).initialize(mx.random.key(0)), tokenizer, end_ids=())
    hot = Request(prompts[0], 20, Sampling(temperature=5.0, seed=0))
    for completion in engine.generate(hot.repeat(8)):
        assert max(completion.ids) < tokenizer.vocab_size


def test_an_engine_works_in_any_thread(engine: Engine, prompts: list[list[int]]):
    requests = [Request(p, 8, s) for p, s in zip(prompts, SETTINGS, strict=True)]
    found = []
    thread = threading.Thread(target=lambda: found.append(engine.generate(requests)))
    thread.start()
    thread.join()
    assert found == [engine.generate(requests)]


def test_no_requests_are_no_completions(engine: Engine):
    assert engine.generate([]) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": []}, "the prompt is empty: begin it with the tokenizer's bos_id"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"stop": "end"}, "stop must be a tuple of strings that are not empty: 'end'"),
        ({"stop": ("a", "")}, "stop must be a tuple of strings that are not empty: ('a', '')"),
    ],
)
def test_wrong_requests_are_refused(wrong: dict, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Request(**({"prompt": [1]} | wrong))


def test_wrong_use_is_refused(engine: Engine, model: Watched, tokenizer: Tokenizer):
    with pytest.raises(ValueError, match=r"^expected at least one request, got none$"):
        engine.start([])
    with pytest.raises(ValueError, match=r"^a prompt cache is for one request, got 2$"):
        engine.start([Request([1]), Request([2])], PromptCache())
    outside = r"^request 1: the prompt has id 384, but the tokenizer has 384 tokens$"
    with pytest.raises(ValueError, match=outside):
        engine.generate([Request([1]), Request([2, 384])])
    with pytest.raises(ValueError, match=r"^max_batch must be 1 or more, got 0$"):
        engine.generate([Request([1])], max_batch=0)
    with pytest.raises(ValueError, match=r"^prefill_chunk must be 1 or more, got 0$"):
        Engine(model, tokenizer, prefill_chunk=0)
