"""Steps of the engine: what they compute, and that one request's trouble is its own."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from serve_models import CONTEXT, Heard, Steps, make_engine, make_model

from mlx_gpt.engine import Engine, Request, Sampling, Speculation, prompts
from mlx_gpt.engine.prompts import PromptReading
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.llama import Llama
from mlx_gpt.serve.generation import Delta, Generate
from mlx_gpt.tokenizer import Tokenizer
from mlx_lora import LoraConfig, add_adapter, save_adapter

GREEDY = Sampling(temperature=0)
SHORT, LONG = (3, 1, 4), tuple(range(1, 61))


class Watched(Llama):
    """Notes the shapes that go through it; fails at the n-th of them if asked to."""

    _shapes: list[tuple[int, ...]]
    _fail_at: Sequence[int]

    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        self._shapes.append(tuple(ids.shape))
        if len(self._shapes) in self._fail_at:
            raise RuntimeError("the device is on fire")
        return super().hidden_states(ids, cache, segments)


class WatchedEngine(Engine):
    """An engine of such a model."""

    model: Watched


@pytest.fixture
def engine(tokenizer: Tokenizer) -> WatchedEngine:
    """An engine whose model notes what it reads."""
    plain = make_model("llama", tokenizer.vocab_size)
    model = Watched(plain.config)
    model.update(plain.parameters())
    model._shapes, model._fail_at = [], ()
    return WatchedEngine(model, tokenizer, tools=False, end_ids=())


def alone(engine: Engine, given: Generate) -> list[int]:
    request = Request(given.prompt, given.max_tokens, given.sampling)
    return engine.generate([request])[0].ids


def test_a_long_prompt_is_read_in_pieces_and_the_others_write_on(engine: WatchedEngine):
    steps = Steps(engine, prefill_chunk=8)
    _, writing = steps.ask(Generate(SHORT, 30, GREEDY))
    for _ in range(3):
        steps.loop.step()
    reading, _ = steps.ask(Generate(LONG, 5, GREEDY))
    del engine.model._shapes[:]
    while not reading.tokens:
        before = len(writing.deltas)
        steps.loop.step()
        assert len(writing.deltas) == before + 1
    pieces = [length for _, length in engine.model._shapes if length > 1]
    assert pieces == [8] * 7 + [4]
    steps.finish()
    assert writing.tokens == alone(engine, Generate(SHORT, 30, GREEDY))


def test_a_short_prompt_does_not_wait_for_a_long_one(engine: WatchedEngine):
    steps = Steps(engine, prefill_chunk=4)
    long, _ = steps.ask(Generate(LONG, 5, GREEDY))
    steps.loop.step()
    short, _ = steps.ask(Generate(SHORT, 5, GREEDY))
    while not short.tokens:
        steps.loop.step()
    assert not long.tokens
    steps.finish()
    assert long.finish_reason == short.finish_reason == "length"


def test_equal_prompts_are_read_once(engine: WatchedEngine):
    steps = Steps(engine, prefix_cache_bytes=0)
    given = [Generate(LONG, 6, Sampling(seed=seed)) for seed in range(4)]
    heard = [steps.ask(each)[1] for each in given]
    del engine.model._shapes[:]
    steps.finish()
    assert sum(length for _, length in engine.model._shapes if length > 1) == len(LONG)
    assert [each.tokens for each in heard] == [alone(engine, each) for each in given]


def test_logs_are_of_the_model_and_of_the_likeliest_tokens(engine: WatchedEngine):
    steps = Steps(engine)
    biased = Sampling(seed=1, logit_bias={5: 50.0})
    _, heard = steps.ask(Generate(SHORT, 6, biased, top_log_probabilities=3))
    _, other = steps.ask(Generate(LONG, 6, GREEDY, top_log_probabilities=0))
    _, plain = steps.ask(Generate(LONG, 6, GREEDY))
    steps.finish()
    ids = mx.array([[*SHORT, *heard.tokens]])
    logits = engine.model(ids)[0, len(SHORT) - 1 : -1, : engine.tokenizer.vocab_size]
    expected = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    for row, delta in zip(expected, heard.deltas, strict=True):
        likeliest = np.argsort(-row)[:3]
        assert [token for token, _ in delta.top] == likeliest.tolist()
        np.testing.assert_allclose([value for _, value in delta.top], row[likeliest], atol=1e-4)
        assert delta.log_probability == pytest.approx(row[5], abs=1e-4)
    assert all(each.top == () and each.log_probability is not None for each in other.deltas)
    assert all(each.log_probability is None for each in plain.deltas)


class Only:
    """Allows some tokens; ends after a few; may fail."""

    def __init__(self, size: int, allowed: Sequence[int], count: int = 99, fail: str = ""):
        self._mask, self._count, self._fail = np.zeros(size, bool), count, fail
        self._mask[list(allowed)] = True

    @property
    def ended(self) -> bool:
        return self._count == 0

    def allowed(self) -> np.ndarray | None:
        if self._fail == "allowed" and self._count < 97:
            raise KeyError("grammar")
        return self._mask

    def accept(self, token: int) -> None:
        self._count -= 1
        if self._fail == "accept" and self._count < 97:
            raise KeyError("grammar")


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=2, temperature=3.0)])
def test_a_mask_holds_for_its_own_row_from_the_first_token_on(
    engine: WatchedEngine, sampling: Sampling
):
    steps, size = Steps(engine), engine.tokenizer.vocab_size
    free = Generate(LONG, 12, sampling)
    _, other = steps.ask(free)
    _, masked = steps.ask(Generate(SHORT, 12, sampling, grammar=Only(size, [7, 8, 9])))
    _, ended = steps.ask(Generate(SHORT, 12, sampling, grammar=Only(size, [7, 8, 9], count=4)))
    steps.finish()
    assert other.tokens == alone(engine, free)
    assert set(masked.tokens) <= {7, 8, 9}
    assert (len(masked.tokens), masked.reason) == (12, "length")
    assert ended.tokens == masked.tokens[:4] or sampling.seed
    assert (len(ended.tokens), ended.reason) == (4, "stop")


@pytest.mark.parametrize("fail", ["allowed", "accept", "deliver", "nothing", "size"])
def test_what_fails_in_one_request_ends_that_one_alone(engine: WatchedEngine, fail: str):
    steps, size = Steps(engine), engine.tokenizer.vocab_size
    heard: list[Delta] = []

    def deliver(delta: Delta) -> None:
        heard.append(delta)
        if fail == "deliver" and len(heard) == 3:
            raise OSError("gone")

    size += fail == "size"
    grammar = Only(size, [] if fail == "nothing" else [7, 8], fail=fail)
    failing, _ = steps.ask(Generate(SHORT, 12, GREEDY, grammar=grammar), deliver)
    _, other = steps.ask(Generate(LONG, 12, GREEDY))
    steps.finish()
    assert failing.finish_reason == "error"
    assert heard[-1].finish_reason == "error"
    assert {"deliver": "gone", "nothing": "no token", "size": "(385,)"}.get(fail, "grammar") in str(
        heard[-1].error
    )
    assert other.tokens == alone(engine, Generate(LONG, 12, GREEDY))
    assert not steps.counts["failures"]


def test_a_step_that_fails_ends_the_requests_in_it_and_the_next_ones_are_answered(
    engine: WatchedEngine,
):
    steps = Steps(engine)
    _, first = steps.ask(Generate(SHORT, 12, GREEDY))
    for _ in range(4):
        steps.loop.step()
    engine.model._fail_at = (len(engine.model._shapes) + 1,)
    _, second = steps.ask(Generate(LONG, 12, GREEDY))
    steps.loop.step()
    assert first.reason == "error"
    assert first.deltas[-1].error == "RuntimeError: the device is on fire"
    steps.finish()
    assert second.tokens == alone(engine, Generate(LONG, 12, GREEDY))
    assert steps.counts["failures"] == 1


def test_a_prompt_that_cannot_be_read_ends_its_own_requests(engine: WatchedEngine):
    steps = Steps(engine)
    _, first = steps.ask(Generate(SHORT, 12, GREEDY))
    for _ in range(4):
        steps.loop.step()
    engine.model._fail_at = (len(engine.model._shapes) + 2,)
    _, second = steps.ask(Generate(LONG, 12, GREEDY))
    steps.finish()
    assert (first.reason, second.reason) == ("length", "error")
    assert first.tokens == alone(engine, Generate(SHORT, 12, GREEDY))


def test_a_prompt_that_could_not_be_read_is_not_tried_again(
    engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(prompts, "_SHARE", 1e6)  # time enough for it
    steps = Steps(engine, prefill_chunk=64)
    _, first = steps.ask(Generate(SHORT, 12, GREEDY))
    for _ in range(5):
        steps.loop.step()
    engine.model._fail_at = (len(engine.model._shapes) + 2,)
    _, second = steps.ask(Generate(LONG, 12, GREEDY))
    steps.loop.step()
    assert second.reason == "error"
    assert engine.model._shapes.count((1, len(LONG))) == 1
    steps.finish()
    assert first.reason == "length"


def test_a_model_that_does_not_compute_any_more_ends_the_loop(engine: WatchedEngine):
    steps = Steps(engine)
    steps.ask(Generate(SHORT, 12, GREEDY))
    engine.model._fail_at = range(99)
    with pytest.raises(RuntimeError, match="on fire"):
        steps.finish()


def test_requests_wait_while_keys_and_values_would_not_fit(engine: WatchedEngine):
    steps = Steps(engine)
    size = steps.loop.memory.needed([CONTEXT])
    steps = Steps(engine, memory_limit=2 * size)
    answers = [steps.ask(Generate(SHORT, 10, GREEDY))[0] for _ in range(3)]
    steps.loop.step()
    assert [len(steps.loop.running), len(steps.loop.waiting)] == [2, 1]
    assert steps.counts["memory"] == 2 * size
    steps.finish()
    assert all(each.finish_reason == "length" for each in answers)


def test_a_stop_string_an_end_token_and_the_limit_end_an_answer(engine: WatchedEngine):
    steps = Steps(engine)
    whole = steps.answer(Generate(SHORT, 20, GREEDY))
    half = whole.text[3:6]
    stopped = steps.answer(Generate(SHORT, 20, GREEDY, stop=(half,)))
    assert stopped.text == whole.text[: whole.text.index(half)]
    token = whole.tokens[4]
    ended = steps.answer(Generate(SHORT, 20, GREEDY, end_ids=frozenset([token])))
    assert ended.tokens == whole.tokens[: whole.tokens.index(token)]
    assert ended.deltas[-1].token is None
    assert [each.reason for each in (whole, stopped, ended)] == ["length", "stop", "stop"]
    assert {each.prompt_tokens for each in whole.deltas} == {len(SHORT)}


def test_a_cancelled_request_ends_in_the_next_step_wherever_it_is(engine: WatchedEngine):
    steps = Steps(engine, max_batch=2, prefill_chunk=8)
    writing, heard = steps.ask(Generate(SHORT, 30, GREEDY))
    for _ in range(4):
        steps.loop.step()
    reading, _ = steps.ask(Generate(LONG, 30, GREEDY))
    waiting, _ = steps.ask(Generate(SHORT, 30, GREEDY))
    steps.loop.step()
    assert (len(steps.loop.readings), len(steps.loop.waiting)) == (1, 1)
    for each in (writing, reading, waiting):
        each.cancelled = True
    steps.loop.step()
    assert [each.finish_reason for each in (writing, reading, waiting)] == ["cancelled"] * 3
    assert not steps.loop.busy
    assert heard.tokens == alone(engine, Generate(SHORT, 30, GREEDY))[: len(heard.tokens)]


def test_memory_is_flat_after_a_hundred_cancelled_requests(engine: WatchedEngine):
    steps = Steps(engine, prefix_cache_bytes=0)

    def cancel_some(count: int) -> int:
        for i in range(count):
            answer, _ = steps.ask(Generate((*SHORT, i), 30, GREEDY))
            for _ in range(i % 5):
                steps.loop.step()
            answer.cancelled = True
        steps.finish()
        mx.synchronize()
        return mx.get_active_memory()

    before = cancel_some(10)
    assert cancel_some(100) <= before


def test_guesses_change_no_text(tokenizer: Tokenizer):
    repetitive = (1, 2, 3, 4) * 10
    for sampling in (GREEDY, Sampling(seed=4, temperature=0.3), Sampling(0, logit_bias={1: 9.0})):
        given = Generate(repetitive, 30, sampling, top_log_probabilities=1)
        plain = Steps(make_engine(tokenizer)).answer(given)
        guessing = make_engine(tokenizer, speculation=Speculation(4, 2))
        steps = Steps(guessing)
        heard = steps.answer(given)
        assert heard.tokens == plain.tokens
        for one, other in zip(heard.deltas, plain.deltas, strict=True):
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        assert guessing.counts.passes
        assert guessing.counts.tokens >= guessing.counts.accepted
    assert guessing.counts.accepted


def test_a_draft_model_guesses_for_a_row_while_it_is_alone(tokenizer: Tokenizer):
    model = make_model("llama", tokenizer.vocab_size)
    engine = make_engine(tokenizer, speculation=Speculation(3, model=model))
    steps = Steps(engine)
    given = Generate(SHORT, 40, GREEDY)
    _, first = steps.ask(given)
    for _ in range(4):
        steps.loop.step()
    passes = engine.counts.passes
    assert passes
    assert engine.counts.accepted == engine.counts.guessed  # it is the same model
    _, second = steps.ask(Generate(LONG, 5, GREEDY))
    steps.finish()
    plain = make_engine(tokenizer)
    assert first.tokens == alone(plain, given)
    assert second.tokens == alone(plain, Generate(LONG, 5, GREEDY))


def test_the_calculator_answers_in_a_batch_as_alone(tokenizer: Tokenizer):
    names = ("python_start", "python_end", "output_start", "output_end")
    start, end, opened, closed = (tokenizer.special(f"<|{name}|>") for name in names)
    call = [start, *tokenizer.encode("6*7"), end]

    class Calls(Only):
        """Says the call and then what it likes."""

        def __init__(self) -> None:
            super().__init__(tokenizer.vocab_size, range(tokenizer.vocab_size))
            self._left = list(call)

        def allowed(self) -> np.ndarray | None:
            return np.arange(tokenizer.vocab_size) == self._left[0] if self._left else None

        def accept(self, token: int) -> None:
            del self._left[:1]

    result = [opened, *tokenizer.encode("42"), closed]
    steps = Steps(make_engine(tokenizer, "nanochat", tools=True))
    _, heard = steps.ask(Generate(SHORT, len(call) + len(result) + 3, GREEDY, grammar=Calls()))
    _, other = steps.ask(Generate(LONG, 20, GREEDY))
    steps.finish()
    assert heard.tokens[: len(call) + len(result)] == call + result
    assert other.tokens == alone(steps.loop.engine, Generate(LONG, 20, GREEDY))


@pytest.fixture
def adapters(tmp_path: Path, tokenizer: Tokenizer) -> dict[str, Path]:
    """Two adapters of the tiny Llama, of different ranks and targets."""
    found = {}
    for name, targets in (("poet", ["q_proj", "v_proj"]), ("clerk", ["up_proj", "o_proj"])):
        model = make_model("llama", tokenizer.vocab_size)
        add_adapter(model, LoraConfig(r=len(found) + 2, target_modules=targets))
        mx.random.seed(len(found))
        model.update(tree_map(lambda p: mx.random.normal(p.shape), model.trainable_parameters()))
        found[name] = tmp_path / name
        save_adapter(model, found[name])
    return found


def test_adapters_in_one_batch_give_the_texts_of_each_alone(
    tokenizer: Tokenizer, adapters: dict[str, Path]
):
    names = [None, "poet", "clerk", "poet", None]
    prompts = LONG[:30], SHORT  # in pieces, and several in a pass
    given = [Generate(each, 8, GREEDY, adapter=name) for each in prompts for name in names]
    mixed = Steps(make_engine(tokenizer), adapters, max_batch=10)
    heard: list[Heard] = []
    for _ in range(2):  # the second time from the prefix cache
        for each in given:
            heard.append(mixed.ask(each)[1])
            if len(each.prompt) > 16:
                mixed.loop.step()
        mixed.finish()
    expected = [Steps(make_engine(tokenizer), adapters).answer(each).tokens for each in given]
    assert [each.tokens for each in heard] == expected * 2
    assert len({tuple(each) for each in expected}) == 6
    assert alone(make_engine(tokenizer), given[0]) == expected[0]
    assert mixed.loop.prefix.hits


def test_prompts_of_several_adapters_share_a_pass(tokenizer: Tokenizer, adapters: dict[str, Path]):
    steps = Steps(make_engine(tokenizer), adapters)

    def read(*names: str | None) -> np.ndarray:
        asked = [steps.ask(Generate(SHORT, 1, GREEDY, adapter=name))[0] for name in names]
        readings = [PromptReading(None, each) for each in asked]
        begun = steps.loop._reader.begin([(each, len(SHORT)) for each in readings])
        while not begun.advance():
            pass
        return np.concatenate([np.array(each.logits) for each in readings])

    names = (None, "poet", "clerk")
    together, apart = read(*names), np.concatenate([read(each) for each in names])
    np.testing.assert_allclose(together, apart, atol=1e-5)
    assert min(np.abs(apart[i] - apart[i - 1]).max() for i in range(3)) > 1e-3
