import json
import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gpt.data.conversation import render_for_completion
from mlx_gpt.data.formats import solution_parts
from mlx_gpt.engine import Completion, Engine
from mlx_gpt.evaluate.gsm8k import (
    evaluate_gsm8k,
    extract_answer,
    is_correct,
    make_problem,
    read_problems,
    solution_text,
)
from mlx_gpt.evaluate.metrics import TaskResult, pass_at_k

SOLUTION = "She has 12*7 = <<12*7=84>>84 and\n3 more: <<84+3=87>>87.\n#### 87"


def exactly(message):
    return f"^{re.escape(message)}$"


def test_calculator_marks_become_calls_and_their_outputs():
    assert solution_parts(SOLUTION) == [
        {"type": "text", "text": "She has 12*7 = "},
        {"type": "python", "text": "12*7"},
        {"type": "python_output", "text": "84"},
        {"type": "text", "text": "84 and\n3 more: "},
        {"type": "python", "text": "84+3"},
        {"type": "python_output", "text": "87"},
        {"type": "text", "text": "87.\n#### 87"},
    ]


def test_the_result_is_what_follows_the_last_equals_sign():
    assert solution_parts("<<5=5=5>><<7>>") == [
        {"type": "python", "text": "5=5"},
        {"type": "python_output", "text": "5"},
        {"type": "python", "text": "7"},
        {"type": "python_output", "text": ""},
    ]


MARKED = st.tuples(st.text("a \n$."), st.text("12+=", min_size=1), st.text("34."))


@given(st.lists(MARKED), st.text("b#"))
def test_every_mark_becomes_a_call_and_all_text_between_is_kept(marks, last):
    solution = "".join(f"{text}<<{call}={result}>>" for text, call, result in marks) + last
    expected = []
    for text, call, result in marks:
        expected += [("text", text), ("python", call), ("python_output", result)]
    expected.append(("text", last))
    found = [(part["type"], part["text"]) for part in solution_parts(solution)]
    assert found == [part for part in expected if part != ("text", "")]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so #### 18", "18"),
        ("#### -1,234,567", "-1234567"),
        ("#### 0.50 dollars", "0.50"),
        ("It is #### 42.", "42"),
        ("#### .5", ".5"),
        ("#### 1\n#### 2", "1"),
        ("#### , then #### 7", "7"),
        ("#### $5", None),
        ("####18", None),
        ("18", None),
        ("#### 1.2.3", None),
        ("", None),
    ],
)
def test_the_answer_is_the_first_number_after_four_hashes(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("completion", "reference", "correct"),
    [
        ("#### 87", SOLUTION, True),
        ("#### 87.00", SOLUTION, True),
        ("#### 1,000", "#### 1000", True),
        ("#### 87", "87", True),
        ("#### -87", SOLUTION, False),
        ("87", SOLUTION, False),
        ("#### 0.1", "#### 0.10000000000000001", False),
    ],
)
def test_completions_are_judged_by_the_value_of_their_answer(completion, reference, correct):
    assert is_correct(completion, reference) is correct


def test_a_reference_without_a_number_is_an_error():
    with pytest.raises(ValueError, match=exactly("the reference has no '#### number': 'no idea'")):
        is_correct("#### 1", "no idea")


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_correct_sample(samples, data):
    correct = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    draws = list(combinations([i < correct for i in range(samples)], k))
    share = sum(any(draw) for draw in draws) / len(draws)
    assert pass_at_k(samples, correct, k) == pytest.approx(share)


def test_pass_at_k_needs_as_many_samples():
    message = (
        "pass@k needs 0 <= correct <= samples and 1 <= k <= samples, got correct=1, samples=4, k=5"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        pass_at_k(4, 1, 5)


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_all_three_layouts_of_a_file_give_the_same_problems(tmp_path):
    pairs = [(f"How many? {i}", SOLUTION) for i in range(5)]
    chat = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in pairs
    ]
    files = [
        write(tmp_path / "a.jsonl", *chat),
        write(tmp_path / "b.jsonl", *[{"question": q, "answer": a} for q, a in pairs]),
        write(tmp_path / "c.jsonl", *[{"prompt": q, "completion": a} for q, a in pairs]),
    ]
    read = [read_problems(path) for path in files]
    assert read[0] == read[1] == read[2]
    # The order of NumPy's generator with seed 42, as in nanochat.
    asked = [each["messages"][0]["content"] for each in read[0]]
    assert asked == [f"How many? {i}" for i in (4, 2, 3, 1, 0)]
    assert read[0][0] == make_problem("How many? 4", SOLUTION)
    assert read_problems(files[0], 2) == read[0][:2]


def test_the_solutions_text_has_the_answer_and_not_the_calls():
    assert solution_text(make_problem("How many?", SOLUTION)) == (
        "She has 12*7 = 84 and\n3 more: 87.\n#### 87"
    )
    plain = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert solution_text(plain) == "a"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q"}, "'answer' must be a text, got None"),
        ({"question": "q", "answer": "87"}, "the solution has no '#### number'"),
        ({"messages": [{"role": "user", "content": "q"}]},
         "expected 'messages' with a question and its solution"),
        ({"messages": [{"role": "assistant", "content": "q"}, {"role": "user", "content": "q"}]},
         "expected a message of the user, got {'role': 'assistant', 'content': 'q'}"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": []}]},
         "'content' must be a text, got []"),
    ],
)  # fmt: skip
def test_a_malformed_problem_is_named_by_file_and_line(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", {"question": "q", "answer": "#### 1"}, row)
    with pytest.raises(ValueError, match=exactly(f"{path}, line 2: {message}")):
        read_problems(path)


class Answers:
    """Answers each prompt with the next of its texts, and keeps the requests."""

    def __init__(self, tokenizer, texts):
        self.tokenizer = tokenizer
        self.texts = {prompt: iter(each) for prompt, each in texts.items()}
        self.requests = []
        self.max_batches = set()

    def generate(self, requests, max_batch):
        self.requests.append(requests)
        self.max_batches.add(max_batch)
        texts = [next(self.texts[each.prompt]) for each in requests]
        return [Completion([], [], text, "stop") for text in texts]


@pytest.fixture
def problems():
    """Four problems, whose answers are 0 to 3."""
    return [make_problem(f"How many? {i}", f"It is <<{i}+0={i}>>{i}.\n#### {i}") for i in range(4)]


def prompt_of(tokenizer, asked):
    return tuple(render_for_completion(tokenizer, asked))


def test_accuracy_is_the_share_of_greedy_answers_that_are_right(tokenizer, problems):
    texts = ["#### 0", "It is 1", "#### 2.0", "#### 4"]
    answers = Answers(
        tokenizer,
        {prompt_of(tokenizer, each): [text] for each, text in zip(problems, texts, strict=True)},
    )
    counted = []
    found = evaluate_gsm8k(answers, problems, max_tokens=9, batch_size=3, advance=counted.append)
    assert found == TaskResult("gsm8k", "generative", 4, 0.5, 0.0)
    assert [len(requests) for requests in answers.requests] == counted == [3, 1]
    for request in answers.requests[0]:
        assert (request.max_tokens, request.sampling.temperature) == (9, 0.0)


def test_several_samples_give_pass_at_k(tokenizer, problems):
    # Of 3 samples 0, 1, 2 and 3 are right.
    texts = [["#### 9"] * (3 - i) + [f"#### {i}"] * i for i in range(4)]
    answers = Answers(
        tokenizer,
        {prompt_of(tokenizer, each): text for each, text in zip(problems, texts, strict=True)},
    )
    found = evaluate_gsm8k(answers, problems, samples=3, batch_size=7, seed=5)
    assert found.pass_at == pytest.approx((0.5, (0 + 2 / 3 + 1 + 1) / 4, 0.75))
    assert found.accuracy == found.pass_at[0]
    assert [len(requests) for requests in answers.requests] == [6, 6]
    sampled = [request.sampling for requests in answers.requests for request in requests]
    assert [each.seed for each in sampled] == list(range(5, 17))
    assert {(each.temperature, each.top_k) for each in sampled} == {(1.0, 50)}
    assert answers.max_batches == {7}


def test_the_engine_is_asked_with_the_same_result_in_any_batch(tiny_model, tokenizer, problems):
    engine = Engine(tiny_model, tokenizer)
    found = [
        evaluate_gsm8k(engine, problems, samples=2, max_tokens=6, batch_size=size, seed=1)
        for size in (2, 16)
    ]
    assert found[0] == found[1]
    assert found[0].examples == 4
