"""CORE's scorer against one that does everything one row at a time in float64."""

import random
import re

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gpt.evaluate.core import are_correct, evaluate_core_task, make_continuations, make_prompts
from mlx_gpt.evaluate.core_tasks import CoreTask, Example
from mlx_gpt.evaluate.likelihood import Continuation, mean_losses, padded_batches
from mlx_gpt.evaluate.metrics import TaskResult, mean_centered

CONTEXTS = [
    "The quick brown fox", "She said: it's late,", "What is 12 times 7?", "How many r are",
    "Ein Zug fährt über", "They've gone", "The lazy dog jumps", "84 plus 3",
]  # fmt: skip
GOLDS = [0, 0, 2, 1, 2, 0, 1, 1]
ENDS = ["over the dog", "is 87.", "in strawberry", "already!", "die Brücke, 東京", "away. It is"]


def exactly(message):
    return f"^{re.escape(message)}$"


def make_task(kind, shots=0, delimiter=" "):
    """Return 8 examples whose options are as long as each other, or not at all."""
    examples = []
    for i, context in enumerate(CONTEXTS):
        ends = [ENDS[(i + k) % len(ENDS)] for k in range(3)]
        if kind == "multiple_choice":
            pairs = [(context, end) for end in ends]
        elif kind == "schema":
            pairs = [(f"{context} {CONTEXTS[(i + k) % 8]}", ends[0]) for k in range(2)]
        else:
            pairs = [(context, ends[0])]
        examples.append(Example(tuple(pairs), GOLDS[i] % len(pairs)))
    baseline = {"multiple_choice": 1 / 3, "schema": 0.5, "language_modeling": 0.0}[kind]
    return CoreTask("task", kind, tuple(examples), baseline, shots, delimiter)


def log_softmax(model, ids):
    """Return float64 log-probabilities (T, V), from a batch of one row without padding."""
    scores = np.array(model(mx.array([ids])), np.float64)[0]
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def naive_is_correct(model, tokenizer, task, number):
    """Return whether nanochat would call this example solved."""
    others = [i for i in range(len(task.examples)) if i != number]
    shown = ""
    for i in random.Random(1234 + number).sample(others, task.shots):
        context, end = task.examples[i].pairs[task.examples[i].gold]
        shown += context + task.delimiter + end + "\n\n"
    pairs = task.examples[number].pairs
    rows = [
        [tokenizer.bos_id, *tokenizer.encode(shown + context + task.delimiter + end)]
        for context, end in pairs
    ]
    if task.kind == "language_modeling":
        without = (shown + pairs[0][0] + task.delimiter).strip()
        start = 1 + len(tokenizer.encode(without))
        assert rows[0][1:start] == tokenizer.encode(without)
        starts = [start]
    elif task.kind == "multiple_choice":
        shared = 0
        while len({row[shared] for row in rows}) == 1:
            shared += 1
        starts = [shared] * len(rows)
    else:
        shared = 0
        while len({row[-1 - shared] for row in rows}) == 1:
            shared += 1
        starts = [len(row) - shared for row in rows]
    longest = model.config.sequence_len
    means = []
    for row, begin in zip(rows, starts, strict=True):
        cut = max(0, len(row) - longest)
        kept, first = row[cut:], begin - cut
        chances = log_softmax(model, kept)
        predicted, wanted = chances[first - 1 : -1], kept[first:]
        if task.kind == "language_modeling":
            return bool((predicted.argmax(axis=-1) == wanted).all())
        means.append(-np.mean([predicted[i, token] for i, token in enumerate(wanted)]))
    return int(np.argmin(means)) == task.examples[number].gold


@pytest.mark.parametrize("kind", ["multiple_choice", "schema"])
@pytest.mark.parametrize(("shots", "delimiter"), [(0, " "), (2, "\nAnswer: ")])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_answers_are_those_of_the_naive_scorer(
    tiny_model, tokenizer, kind, shots, delimiter, batch_size
):
    task = make_task(kind, shots, delimiter)
    naive = [naive_is_correct(tiny_model, tokenizer, task, i) for i in range(8)]
    assert set(naive) == {True, False}
    assert are_correct(tiny_model, tokenizer, task, range(8), batch_size).tolist() == naive
    found = evaluate_core_task(tiny_model, tokenizer, task, batch_size)
    assert found == TaskResult("task", kind, 8, sum(naive) / 8, task.baseline)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_last_word_counts_where_greedy_decoding_gives_it(tiny_model, tokenizer, batch_size):
    # Half of the last words are what the model would say.
    examples = []
    for i, context in enumerate(CONTEXTS):
        ids = tokenizer.encode(context)
        word = [int(log_softmax(tiny_model, [tokenizer.bos_id, *ids])[-1].argmax())]
        word.append(int(log_softmax(tiny_model, [tokenizer.bos_id, *ids, *word])[-1].argmax()))
        text = tokenizer.decode(word) if i % 2 else ENDS[i % 6]
        examples.append(Example(((context, text),)))
    task = CoreTask("task", "language_modeling", tuple(examples), 0.0, delimiter="")
    naive = [naive_is_correct(tiny_model, tokenizer, task, i) for i in range(8)]
    assert set(naive) == {True, False}
    assert are_correct(tiny_model, tokenizer, task, range(8), batch_size).tolist() == naive


def test_batches_and_their_padding_change_no_loss(tiny_model):
    @given(
        lengths=st.lists(st.integers(2, 64), min_size=1, max_size=9),
        batch_size=st.integers(1, 9),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=15, deadline=None)
    def holds(lengths, batch_size, seed):
        generator = np.random.default_rng(seed)
        rows = [
            Continuation(
                generator.integers(0, 384, length).tolist(), int(generator.integers(1, length))
            )
            for length in lengths
        ]
        means = mean_losses(tiny_model, rows, batch_size)
        for row, mean in zip(rows, means, strict=True):
            chances = log_softmax(tiny_model, row.ids)
            expected = -np.mean(
                [chances[t - 1, row.ids[t]] for t in range(row.start, len(row.ids))]
            )
            assert mean == pytest.approx(expected, rel=1e-4)

    holds()


def test_batches_have_few_lengths_and_none_is_longer_than_the_model_allows():
    rows = [list(range(1, 1 + length)) for length in (97, 3, 9, 65, 2)]
    batches = list(padded_batches(rows, 3, max_length=100))
    assert [(numbers, ids.shape) for numbers, ids in batches] == [
        ([4, 1, 2], (3, 64)),
        ([3, 0], (2, 100)),
    ]
    for numbers, ids in batches:
        for number, row in zip(numbers, ids.tolist(), strict=True):
            assert row == rows[number] + [0] * (len(row) - len(rows[number]))


def test_prompts_show_solved_examples_as_dclm_does():
    pairs = (("Question: a", "1"), ("Question: a", "2"))
    others = (("Question: b", "3"), ("Question: b", "4"))
    task = CoreTask(
        "t", "multiple_choice", (Example(pairs, 0), Example(others, 1)), 0.5, 1, "\nAnswer: "
    )
    shown = "Question: b\nAnswer: 4\n\nQuestion: a\nAnswer: "
    assert make_prompts(task, 0) == [shown + "1", shown + "2"]

    task = CoreTask(
        "t", "schema",
        (Example((("the cat", "ran"), ("the dog", "ran")), 1), Example((("x", "z"), ("y", "z")))),
        0.5, 1,
    )  # fmt: skip
    assert make_prompts(task, 0) == ["x z\n\nthe cat ran", "x z\n\nthe dog ran"]

    examples = (Example((("it was", "late"),)), Example((("she went", "home"),)))
    task = CoreTask("t", "language_modeling", examples, 0.0, 1)
    assert make_prompts(task, 1) == ["it was late\n\nshe went", "it was late\n\nshe went home"]


def test_shots_are_drawn_anew_for_each_question_and_never_are_the_question():
    examples = tuple(Example(((f"c{i}", "end"),)) for i in range(12))
    task = CoreTask("t", "language_modeling", examples, 0.0, 3)
    shown = [make_prompts(task, i)[0].split("\n\n")[:-1] for i in range(12)]
    for i, lines in enumerate(shown):
        assert len(set(lines)) == 3
        assert f"c{i} end" not in lines
    assert shown == [make_prompts(task, i)[0].split("\n\n")[:-1] for i in range(12)]
    assert len({tuple(lines) for lines in shown}) > 6


def starts(rows, kind, longest=64):
    return [(list(row.ids), row.start) for row in make_continuations(rows, kind, longest)]


def test_a_continuation_begins_where_tokens_differ():
    rows = [[0, 5, 6, 7], [0, 5, 8, 7, 7]]
    assert starts(rows, "multiple_choice") == [(rows[0], 2), (rows[1], 2)]
    assert starts(rows, "schema") == [(rows[0], 3), (rows[1], 4)]
    # The text without the last word need not end at a token's end.
    assert starts([[0, 5, 6], [0, 5, 9, 7]], "language_modeling") == [([0, 5, 9, 7], 2)]


def test_an_option_that_begins_another_keeps_its_last_token():
    rows = [[0, 5, 6], [0, 5, 6, 7]]
    assert starts(rows, "multiple_choice") == [(rows[0], 2), (rows[1], 2)]
    assert starts([[0, 6, 7], [0, 5, 6, 7]], "schema") == [([0, 6, 7], 1), ([0, 5, 6, 7], 2)]
    assert starts([[0, 5], [0, 5]], "multiple_choice") == [([0, 5], 1), ([0, 5], 1)]


def test_long_rows_lose_their_beginning():
    rows = [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 6]]
    assert starts(rows, "multiple_choice", 4) == [([2, 3, 4, 5], 3), ([2, 3, 4, 6], 3)]
    rows = [[0, 1, 2, 3, 4, 5], [0, 9, 2, 3, 4, 5]]
    # Of a continuation that is too long, the first token left only predicts.
    assert starts(rows, "multiple_choice", 4) == [([2, 3, 4, 5], 1)] * 2


def test_core_is_the_mean_of_accuracies_centered_at_guessing():
    results = [
        TaskResult("a", "multiple_choice", 100, 0.40, 0.25),
        TaskResult("b", "schema", 100, 0.45, 0.5),
        TaskResult("c", "language_modeling", 100, 0.3, 0.0),
    ]
    assert [result.centered for result in results] == pytest.approx([0.2, -0.1, 0.3])
    assert mean_centered(results) == pytest.approx(0.4 / 3)
    with pytest.raises(ValueError, match=r"^a score needs at least one task$"):
        mean_centered([])


def test_progress_counts_every_question(tiny_model, tokenizer):
    counted = []
    evaluate_core_task(tiny_model, tokenizer, make_task("schema"), advance=counted.append)
    assert sum(counted) == 8


def test_a_continuation_needs_a_token_before_it_and_one_of_its_own():
    for start in (0, 3):
        message = f"a continuation must start in 1 to 2, got {start}"
        with pytest.raises(ValueError, match=exactly(message)):
            Continuation([1, 2, 3], start)


def test_more_shots_than_other_examples_are_refused():
    message = (
        "task task: 8 shots need as many examples besides the question, got 8 examples in total"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        make_task("schema", shots=8)
