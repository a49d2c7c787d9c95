"""Prompts that are read a few layers at a time: which, for how long, and with which numbers."""

import mlx.core as mx
import numpy as np
import pytest
from serve_models import FAMILIES, Steps, make_engine, make_model

from mlx_gpt.engine import Request, Sampling
from mlx_gpt.engine.prefix_cache import compact
from mlx_gpt.engine.prompts import Pace, PromptReading, Reader, choose
from mlx_gpt.models.ragged import first_tokens
from mlx_gpt.serve.generation import Generate

GREEDY = Sampling(temperature=0)


class Text:
    """As much of a text in progress as the beginning of its prompt needs."""

    def __init__(self, prompt, adapter=None):
        self.request, self.adapter = Request(prompt, 4), adapter


def reading(tokens: int, waited: int = 0) -> PromptReading:
    found = PromptReading(None, Text(tuple(range(1, tokens + 1))))
    found.waited = waited
    return found


def test_short_prompts_come_first_and_together_and_long_ones_in_pieces():
    long, short, shorter = reading(100), reading(7), reading(5)
    assert choose([long, short, shorter], 12) == [(shorter, 5), (short, 7)]
    assert choose([long, short, shorter], 20) == [(shorter, 5), (short, 7)]
    assert choose([long, short], 6) == [(short, 6)]
    assert choose([long], 64) == [(long, 64)]
    assert choose([], 64) == []


def test_no_prompt_waits_for_more_than_eight_passes():
    long, taken = reading(100), []
    for _ in range(10):
        taken.append(choose([reading(3), long], 16)[0][0])
    assert taken.index(long) == 8
    assert taken.count(long) == 1


def test_what_has_been_begun_goes_on_unless_a_shorter_prompt_comes():
    model = make_model("llama", 300)
    reader = Reader(model, None, model.make_cache)
    long = reading(40)
    begun = reader.begin([(long, 16)])
    assert choose([long], 16) == [(long, 0)]
    assert long.begun is begun
    short = reading(3)
    assert choose([long, short], 16) == [(short, 3)]
    while not begun.advance():
        pass
    assert long.begun is None
    assert choose([long], 16) == [(long, 16)]


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_of_several_prompts_that_interrupt_each_other_give_the_numbers_of_each(family: str):
    model = make_model(family, 300)
    prompts = [np.random.default_rng(n).integers(1, 300, n).tolist() for n in (29, 3, 20)]
    readings = [PromptReading(None, Text(tuple(each))) for each in prompts]
    known = model.make_cache()
    mx.eval(model.hidden_states(mx.array([prompts[2][:9]]), known), known.arrays())
    readings[2].cache = known
    reader = Reader(model, None, model.make_cache)
    first, slices = reader.begin([(readings[0], 10)]), 0
    first.advance()
    second = reader.begin([(readings[1], 3), (readings[2], 11)])
    while not second.advance():
        slices += 1
    assert slices == len(known.layers)  # and the head, the last one
    assert readings[0].logits is None
    while not first.advance():
        pass
    third = reader.begin([(readings[0], 19)])
    while not third.advance():
        pass
    for each in readings:
        assert (each.remaining, each.cache.offset) == (0, len(each.prompt))
        expected = model(mx.array([each.prompt]))[:, -1]
        np.testing.assert_allclose(each.logits, expected, atol=2e-5)
        alone = model.make_cache()
        model.hidden_states(mx.array([each.prompt]), alone)
        for mine, other in zip(each.cache.layers, alone.layers, strict=True):
            count = mine.offset - max(mine.begin, other.begin)
            for a, b in zip(mine.parts, other.parts, strict=True):
                end, others = mine.offset - mine.begin, other.offset - other.begin
                mine_last, last = a[:, :, end - count : end], b[:, :, others - count : others]
                np.testing.assert_allclose(mine_last, last, atol=2e-5)


def test_a_step_reads_for_its_share_of_time_and_measures_when_it_knows_too_little():
    pace = Pace()
    assert pace.seconds(1, 0) == 0  # nothing is known
    for _ in range(2):
        pace.saw(0.01, 1, read=False)
    assert pace.seconds(1, 0) == pace.seconds(1, 1) == pytest.approx(0.0175)
    assert pace.seconds(1, 8) == pytest.approx(0.07)
    assert pace.seconds(2, 0) == 0  # steps of twice as many may be slower
    pace.saw(0.02, 1, read=True)
    pace.saw(0.5, 1, read=False)  # waits for what was started in the step before
    assert pace.seconds(1, 0) == pytest.approx(0.0175)
    pace.saw(0.02, 1, read=False)
    assert pace.seconds(1, 0) == pytest.approx(1.75 * (0.8 * 0.01 + 0.2 * 0.02))
    for _ in range(64):
        assert pace.seconds(1, 0)
        pace.saw(0.02, 1, read=True)
    assert pace.seconds(1, 0) == 0


def test_a_newcomer_interrupts_a_long_prompt_that_nobody_else_waits_for(tokenizer):
    steps = Steps(make_engine(tokenizer), prefill_chunk=64)
    long, _ = steps.ask(Generate(tuple(range(1, 61)), 5, GREEDY))
    begin, came = steps.loop._reader.begin, []

    def and_somebody_comes(pieces):
        found = begin(pieces)
        if not came:
            came.append(steps.ask(Generate((3, 1, 4), 5, GREEDY))[0])
        return found

    steps.loop._reader.begin = and_somebody_comes
    while not (came and came[0].tokens):
        steps.loop.step()
    assert not long.tokens
    steps.finish()
    assert len(long.tokens) == 5


def test_a_prompt_has_room_for_all_of_it_at_once_and_is_kept_without_a_copy_if_it_fills_it():
    model = make_model("llama", 300)
    reader = Reader(model, None, model.make_cache)
    for tokens, is_kept in ((700, True), (500, True), (300, False), (40, False)):
        each = reading(tokens)
        each.prompt = tuple(i % 299 for i in range(tokens))
        while each.remaining:
            begun = reader.begin([(each, min(each.remaining, 128))])
            while not begun.advance():
                pass
            rooms = {part.shape[2] for part in each.cache.arrays()}
            assert rooms == {-(-tokens // 256) * 256}
        kept = compact(each.cache)
        assert (kept is each.cache) == is_kept
        expected = first_tokens(each.cache, None)
        for a, b in zip(kept.layers, expected.layers, strict=True):
            for one, other in zip(a.parts, b.parts, strict=True):
                assert mx.array_equal(one[:, :, :tokens], other[:, :, :tokens])


def test_an_answer_of_one_token_needs_no_row(tokenizer):
    steps = Steps(make_engine(tokenizer))
    _, heard = steps.ask(Generate((3, 1, 4), 1, GREEDY))
    _, other = steps.ask(Generate((3, 1, 4, 1), 4, GREEDY))
    while not heard.done.is_set():
        steps.loop.step()
        assert len(steps.loop.batch.members) <= 1
    steps.finish()
    assert [len(each.tokens) for each in (heard, other)] == [1, 4]


def test_rows_join_and_leave_in_room_that_the_memory_guard_counts(tokenizer):
    steps = Steps(make_engine(tokenizer), max_batch=8)
    rooms = set()
    for i in range(8):
        steps.ask(Generate((i, 2, 3), 4 + 3 * i, GREEDY))
        for _ in range(2):
            steps.loop.step()
            cache, running = steps.loop.batch.cache, steps.loop.running
            if cache.rows:
                rooms.add((cache.rows, cache.layers[0].parts[0].shape[0]))
                assert cache.nbytes <= steps.loop.memory.needed([each.size for each in running])
    assert {room for rows, room in rooms if rows in (3, 4)} == {4}
    assert all(rows <= room for rows, room in rooms)
    steps.finish()
