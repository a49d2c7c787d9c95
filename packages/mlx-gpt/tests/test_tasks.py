"""Questions for chat models, and the letters they choose."""

import json
import re
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.data.conversation import render_for_completion
from mlx_gpt.evaluate.choice_tasks import (
    ChoiceTask,
    choose_letters,
    evaluate_choice_task,
    make_choice_question,
    read_choice_tasks,
    shuffle,
    strip_frame,
)
from mlx_gpt.evaluate.metrics import TaskResult
from mlx_gpt.models.nanochat import Nanochat

ROWS = [
    {"query": "Question: Which is far?", "choices": ["Brücke", "fox", "東京"], "gold": 2},
    {"query": "The dog is", "choices": ["lazy", "quick"], "gold": 0},
    {"query": "12 times 7 is", "choices": ["83", "84", "85", "87"], "gold": 1},
    {"query": "It is a very long question. " * 9, "choices": ["84", "87"], "gold": 1},
    {"query": "r", "choices": ["one", "two", "three"], "gold": 0},
]


def exactly(message):
    return f"^{re.escape(message)}$"


@pytest.fixture
def folder(tmp_path):
    """A file with choices, and one of another kind."""
    lines = "\n".join(json.dumps(row) for row in ROWS)
    (tmp_path / "questions.jsonl").write_text(lines)
    (tmp_path / "words.jsonl").write_text('{"context": "It was", "continuation": "late"}')
    return tmp_path


def test_a_question_is_worded_as_nanochat_words_it():
    asked = make_choice_question("Which?", ["a cat", "a dog"], 1)
    assert asked.conversation["messages"] == [
        {
            "role": "user",
            "content": "Multiple Choice question: Which?\n- a cat=A\n- a dog=B\n\n"
            "Respond only with the letter of the correct answer.",
        },
        {"role": "assistant", "content": "B"},
    ]
    assert (asked.letters, asked.gold) == ("AB", 1)


@pytest.mark.parametrize(
    ("query", "bare"),
    [
        ("Question: Where is it?", "Where is it?"),
        ("Question: Where is it?\nAnswer:", "Where is it?"),
        ("Predators eat", "Predators eat"),
        ("What does the Question: mean", "What does the Question: mean"),
    ],
)
def test_the_frame_for_base_models_is_taken_off(query, bare):
    assert strip_frame(query) == bare


def test_only_files_with_choices_are_tasks(folder):
    (task,) = read_choice_tasks(folder)
    assert (task.name, len(task.examples)) == ("questions", 5)
    assert task.baseline == pytest.approx((1 / 3 + 1 / 2 + 1 / 4 + 1 / 2 + 1 / 3) / 5)
    (few,) = read_choice_tasks(folder, max_per_task=2)
    assert few.examples == task.examples[:2]


def test_the_order_is_that_of_numpys_generator_with_seed_42():
    order = np.random.default_rng(42).permutation(10).tolist()
    assert shuffle(range(10)) == order


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_letter_is_the_likeliest_of_those_offered(tiny_model, tokenizer, folder, batch_size):
    model = Nanochat(replace(tiny_model.config, sequence_len=200))
    model.update(tiny_model.parameters())
    (task,) = read_choice_tasks(folder)
    lengths, expected = [], []
    for question in task.examples:
        prompt = render_for_completion(tokenizer, question.conversation)
        lengths.append(len(prompt))
        logits = np.array(model(mx.array([prompt[-200:]])))[0, -1]
        letters = [tokenizer.encode(letter)[0] for letter in question.letters]
        expected.append(int(np.argmax(logits[letters])))
    assert sorted(lengths)[-2] < 200 < max(lengths)  # the longest loses its beginning
    assert choose_letters(model, tokenizer, task.examples, batch_size) == expected
    correct = [
        letter == question.gold for letter, question in zip(expected, task.examples, strict=True)
    ]
    counted = []
    found = evaluate_choice_task(model, tokenizer, task, batch_size, counted.append)
    assert found == TaskResult("questions", "categorical", 5, sum(correct) / 5, task.baseline)
    assert sum(counted) == 5


def test_a_model_that_likes_one_letter_answers_with_it(tiny_model, tokenizer):
    # Only B's row of the head is not 0, and it is along the state where the answer begins.
    questions = [make_choice_question(f"Which of {i}?", ["a", "b", "c"], i % 3) for i in range(6)]
    prompt = render_for_completion(tokenizer, questions[0].conversation)
    state = tiny_model.hidden_states(mx.array([prompt]))[0, -1]
    head = np.zeros(tiny_model.lm_head.weight.shape, np.float32)
    head[tokenizer.encode("B")[0]] = np.array(state)
    tiny_model.lm_head.weight = mx.array(head)
    task = ChoiceTask("b", tuple(questions), 1 / 3)
    assert choose_letters(tiny_model, tokenizer, questions[:1], 1) == [1]
    found = evaluate_choice_task(tiny_model, tokenizer, task)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.centered == pytest.approx(0)


def test_more_choices_than_letters_are_refused():
    with pytest.raises(ValueError, match=r"^a question has at most 26 choices, got 27$"):
        make_choice_question("Which?", ["x"] * 27, 0)


def test_a_folder_without_choices_is_an_error(folder):
    (folder / "questions.jsonl").unlink()
    with pytest.raises(
        ValueError, match=exactly(f"{folder}: no .jsonl file whose rows have 'choices'")
    ):
        read_choice_tasks(folder)
    with pytest.raises(ValueError, match=exactly(f"{folder / 'none'}: no such folder")):
        read_choice_tasks(folder / "none")


def test_a_malformed_question_is_named_by_file_and_line(folder):
    path = folder / "questions.jsonl"
    path.write_text(path.read_text() + '\n{"query": "q", "choices": ["a", "b"], "gold": "A"}')
    with pytest.raises(
        ValueError, match=exactly(f"{path}, line 6: 'gold' must be an index from 0 to 1, got 'A'")
    ):
        read_choice_tasks(folder)
