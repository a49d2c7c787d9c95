"""The engine thread as the server sees it."""

import threading
from pathlib import Path

import mlx.core as mx
import pytest
from serve_models import CONTEXT, Heard, ask, make_engine, make_model, serving

from mlx_gpt.engine import Engine, Sampling
from mlx_gpt.serve.generation import (
    Delta,
    Draining,
    Generate,
    NotEnoughMemory,
    QueueFull,
    TooLong,
    UnknownAdapter,
)
from mlx_gpt.serve.scheduler import Scheduler
from mlx_gpt.tokenizer import Tokenizer

GREEDY = Sampling(temperature=0)
PROMPT = (3, 1, 4)


class Held:
    """Lets the engine thread go on only when it is told to, after the first delta."""

    def __init__(self) -> None:
        self.heard, self.go, self.begun = Heard(), threading.Event(), threading.Event()

    def __call__(self, delta: Delta) -> None:
        self.heard(delta)
        self.begun.set()
        assert self.go.wait(600)


def test_answers_come_from_the_thread_and_are_counted(tokenizer: Tokenizer):
    with serving(tokenizer) as scheduler:
        assert scheduler.alive
        assert scheduler.context_length == CONTEXT
        assert scheduler.tokenizer is tokenizer
        given = [Generate(PROMPT, 10, GREEDY), Generate(PROMPT * 3, 10, Sampling())]
        heard = [ask(scheduler, each).wait() for each in given]
        assert [len(each.tokens) for each in heard] == [10, 10]
        assert scheduler.drain(600)
        stats = scheduler.stats()
        assert stats.finished == {"length": 2}
        assert (stats.active, stats.queued, stats.failures) == (0, 0, 0)
        assert (stats.prompt_tokens, stats.generated_tokens) == (12, 20)
        assert stats.prefix_bytes > 0
    assert not scheduler.alive
    assert scheduler.failure is None


def test_an_answer_ends_at_the_end_of_the_context(tokenizer: Tokenizer):
    for family in ("gpt2", "nanochat"):
        with serving(tokenizer, family) as scheduler:
            prompt = tuple(range(CONTEXT - 5))
            heard = [ask(scheduler, Generate(each, 50, GREEDY)) for each in (prompt, PROMPT)]
            assert [len(each.wait().tokens) for each in heard] == [5, 50]
            assert [each.reason for each in heard] == ["length", "length"]


def test_what_cannot_be_answered_is_refused_before_it_waits(tokenizer: Tokenizer):
    with serving(tokenizer, memory_limit=1 << 15) as scheduler:
        size, heard = tokenizer.vocab_size, Heard()
        with pytest.raises(TooLong, match="96") as too_long:
            scheduler.submit(Generate(tuple(range(CONTEXT)), 1, GREEDY), heard)
        assert (too_long.value.prompt, too_long.value.limit) == (CONTEXT, CONTEXT)
        with pytest.raises(UnknownAdapter, match="'poet'"):
            scheduler.submit(Generate(PROMPT, 1, GREEDY, adapter="poet"), heard)
        for prompt, bias in (((3, size), {}), ((-1, 3), {}), (PROMPT, {size: 1.0})):
            with pytest.raises(ValueError, match=f"the tokenizer has {size} tokens"):
                scheduler.submit(
                    Generate(prompt, 1, Sampling(temperature=0, logit_bias=bias)), heard
                )
        with pytest.raises(NotEnoughMemory) as memory:
            scheduler.submit(Generate(PROMPT, 1, GREEDY), heard)
        assert memory.value.needed > memory.value.limit == 1 << 15
        assert scheduler.stats().queued == 0
        assert not heard.deltas


def test_a_full_queue_refuses_and_says_when_to_come_back(tokenizer: Tokenizer):
    with serving(tokenizer, max_batch=1, max_queue=2) as scheduler:
        held = Held()
        scheduler.submit(Generate(PROMPT, 3, GREEDY), held)
        assert held.begun.wait(600)
        waiting = [ask(scheduler, Generate(PROMPT, 3, GREEDY)) for _ in range(2)]
        assert (scheduler.stats().active, scheduler.stats().queued) == (1, 2)
        with pytest.raises(QueueFull) as full:
            ask(scheduler, Generate(PROMPT, 3, GREEDY))
        assert full.value.retry_after >= 1
        held.go.set()
        assert [each.wait().reason for each in waiting] == ["length"] * 2
        ask(scheduler, Generate(PROMPT, 3, GREEDY)).wait()


def test_deadlines_count_the_time_in_the_queue(tokenizer: Tokenizer):
    with serving(tokenizer, max_batch=1) as scheduler:
        held = Held()
        scheduler.submit(Generate(PROMPT, 3, GREEDY), held)
        assert held.begun.wait(600)
        late = ask(scheduler, Generate(PROMPT, 3, GREEDY, seconds=1e-9))
        held.go.set()
        assert late.wait().reason == "timeout"
        assert not late.tokens


def test_a_cancelled_request_ends_and_others_go_on(tokenizer: Tokenizer):
    with serving(tokenizer) as scheduler:
        held = Held()
        ticket = scheduler.submit(Generate(PROMPT, 90, GREEDY), held)
        other = ask(scheduler, Generate(PROMPT * 2, 20, GREEDY))
        assert held.begun.wait(600)
        scheduler.cancel(ticket)
        scheduler.cancel(ticket)
        held.go.set()
        assert held.heard.wait().reason == "cancelled"
        assert len(held.heard.tokens) <= 2
        assert (other.wait().reason, len(other.tokens)) == ("length", 20)
        scheduler.cancel(ticket)  # has ended


def test_draining_refuses_new_requests_and_waits_for_the_others(tokenizer: Tokenizer):
    with serving(tokenizer) as scheduler:
        held = Held()
        scheduler.submit(Generate(PROMPT, 5, GREEDY), held)
        assert held.begun.wait(600)
        assert not scheduler.drain(0.0)
        with pytest.raises(Draining):
            ask(scheduler, Generate(PROMPT, 5, GREEDY))
        held.go.set()
        assert scheduler.drain(600)
        assert held.heard.reason == "length"


def test_closing_cancels_what_is_in_progress_and_what_waits(tokenizer: Tokenizer):
    with serving(tokenizer, max_batch=1) as scheduler:
        held = Held()
        scheduler.submit(Generate(PROMPT, 90, GREEDY), held)
        waiting = ask(scheduler, Generate(PROMPT, 5, GREEDY))
        assert held.begun.wait(600)
        threading.Timer(0.01, held.go.set).start()
        scheduler.close()
        assert (held.heard.reason, waiting.reason) == ("cancelled", "cancelled")
        assert not scheduler.alive
        with pytest.raises(Draining):
            ask(scheduler, Generate(PROMPT, 5, GREEDY))
    assert scheduler.stats().finished == {"cancelled": 2}


def test_starting_raises_what_loading_raised(tmp_path: Path, tokenizer: Tokenizer):
    def load() -> Engine:
        raise FileNotFoundError("no such model")

    scheduler = Scheduler(load)
    with pytest.raises(FileNotFoundError, match="no such model"):
        scheduler.start()
    assert not scheduler.alive
    scheduler.close()
    missing = Scheduler(lambda: make_engine(tokenizer), adapters={"poet": tmp_path})
    with pytest.raises(FileNotFoundError, match="has no adapter"):
        missing.start()


def test_an_engine_that_cannot_go_on_says_so_and_ends_all_requests(tokenizer: Tokenizer):
    class Broken:
        """A device that fails once it is told to."""

        def __init__(self) -> None:
            self.model, self.is_broken = make_model("llama", tokenizer.vocab_size), False

        def __call__(self) -> Engine:
            model = make_model("llama", tokenizer.vocab_size)
            compute = model.logits

            def logits(hidden: mx.array) -> mx.array:
                if self.is_broken:
                    raise RuntimeError("device lost")
                return compute(hidden)

            model.logits = logits  # type: ignore[method-assign]
            return Engine(model, tokenizer, tools=False, end_ids=())

    load = Broken()
    scheduler = Scheduler(load, max_batch=1)
    scheduler.start()
    held = Held()
    scheduler.submit(Generate(PROMPT, 90, GREEDY), held)
    waiting = ask(scheduler, Generate(PROMPT, 5, GREEDY))
    assert held.begun.wait(600)
    load.is_broken = True
    held.go.set()
    assert [each.wait().reason for each in (held.heard, waiting)] == ["error", "error"]
    scheduler.drain(600)
    scheduler.close()
    assert not scheduler.alive
    assert scheduler.failure == "RuntimeError: device lost"
    with pytest.raises(Draining, match="device lost"):
        ask(scheduler, Generate(PROMPT, 5, GREEDY))


def test_equal_seeds_give_equal_texts_whatever_the_company(tokenizer: Tokenizer):
    given = Generate(PROMPT, 20, Sampling(seed=11))
    with serving(tokenizer, prefill_chunk=4) as scheduler:
        first = ask(scheduler, given).wait().tokens
        company = [ask(scheduler, Generate(PROMPT * i, 25, Sampling())) for i in range(1, 6)]
        assert ask(scheduler, given).wait().tokens == first
        texts = {tuple(each.wait().tokens) for each in company}
        assert len(texts) == 5


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"prefill_chunk": 0}])
def test_limits_below_one_are_refused(options: dict[str, int]):
    with pytest.raises(ValueError, match="must be 1 or more, got 0"):
        Scheduler(lambda: None, **options)  # type: ignore[arg-type, return-value]
