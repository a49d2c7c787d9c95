"""ChatCORE: questions asked of a chat model, by letter or by generated answer.

A letter is chosen by the largest of the choices' logits where the answer begins; generated answers
to GSM8K count by their final number, with the engine's calculator at hand. The score is the mean of
accuracies centered at guessing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gpt.data.conversation import render_for_completion
from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.evaluate.continuations import padded_batches
from mlx_gpt.evaluate.gsm8k import is_correct, pass_at_k, solution_of
from mlx_gpt.evaluate.ranks import sum_over_ranks
from mlx_gpt.evaluate.results import TaskResult
from mlx_gpt.evaluate.tasks import ChoiceQuestion, ChoiceTask
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer import Tokenizer
from mlx_trainer import rank, world_size

# Questions between two reports of progress.
_QUESTIONS = 128
# When several answers are sampled: nanochat's settings for pass@k.
TEMPERATURE = 1.0
TOP_K = 50


def evaluate_choice_task(
    model: Decoder,
    tokenizer: Tokenizer,
    task: ChoiceTask,
    batch_size: int = 16,
    advance: Callable[[int], object] | None = None,
) -> TaskResult:
    """Return the accuracy of the model's letters; `batch_size` questions are computed at once.

    Prompts longer than the model's `sequence_len` lose their beginning. `advance` is told how many
    questions were answered. Under `mlx.launch` ranks share the questions and all get the result.
    """
    mine = task.examples[rank() :: world_size()]
    correct = 0
    for begin in range(0, len(mine), _QUESTIONS):
        questions = mine[begin : begin + _QUESTIONS]
        letters = choose_letters(model, tokenizer, questions, batch_size)
        correct += sum(
            letter == question.gold for letter, question in zip(letters, questions, strict=True)
        )
        if advance:
            advance(len(questions))
    total = float(sum_over_ranks(np.array([correct]))[0])
    count = len(task.examples)
    return TaskResult(task.name, "categorical", count, total / count, task.baseline)


def choose_letters(
    model: Decoder, tokenizer: Tokenizer, questions: Sequence[ChoiceQuestion], batch_size: int
) -> list[int]:
    """Return for each question the index of the letter with the largest logit."""
    longest = model.config.sequence_len
    rows = [
        render_for_completion(tokenizer, question.conversation)[-longest:] for question in questions
    ]
    chosen = [0] * len(rows)
    for numbers, ids in padded_batches(rows, batch_size, longest):
        last = mx.array([len(rows[number]) - 1 for number in numbers])
        states = model.hidden_states(mx.array(ids))[mx.arange(len(numbers)), last]  # (B, D)
        logits = np.array(model.logits(states))
        for row, number in enumerate(numbers):
            letters = [_letter_id(tokenizer, letter) for letter in questions[number].letters]
            chosen[number] = int(logits[row, letters].argmax())
    return chosen


def evaluate_gsm8k(
    engine: Engine,
    problems: Sequence[dict[str, Any]],
    samples: int = 1,
    max_tokens: int = 512,
    batch_size: int = 16,
    seed: int = 0,
    advance: Callable[[int], object] | None = None,
) -> TaskResult:
    """Return how often the final number is right, for problems of `gsm8k.read_problems`.

    One answer is decoded greedily; more `samples` are drawn at temperature 1 from the 50 likeliest
    tokens, and give pass@1 to pass@`samples` too. `batch_size` answers are generated at once. Under
    `mlx.launch` ranks share the problems and all get the result.
    """
    mine = range(rank(), len(problems), world_size())
    at_once = max(1, batch_size // samples)
    passed = np.zeros(samples)
    for begin in range(0, len(mine), at_once):
        numbers = mine[begin : begin + at_once]
        requests = [
            request
            for number in numbers
            for request in _requests(
                render_for_completion(engine.tokenizer, problems[number]),
                samples,
                max_tokens,
                seed + number * samples,  # the same for any batch size and number of ranks
            )
        ]
        completions = iter(engine.generate(requests, batch_size))
        for number in numbers:
            reference = solution_of(problems[number])
            correct = sum(is_correct(next(completions).text, reference) for _ in range(samples))
            passed += [pass_at_k(samples, correct, k) for k in range(1, samples + 1)]
        if advance:
            advance(len(numbers))
    pass_at = tuple(float(each) for each in sum_over_ranks(passed) / len(problems))
    return TaskResult(
        "gsm8k", "generative", len(problems), pass_at[0], 0.0, pass_at if samples > 1 else ()
    )


def _requests(prompt: list[int], samples: int, max_tokens: int, seed: int) -> list[Request]:
    if samples == 1:
        return [Request(prompt, max_tokens, Sampling(temperature=0.0))]
    sampling = Sampling(temperature=TEMPERATURE, top_k=TOP_K, seed=seed)
    return Request(prompt, max_tokens, sampling).repeat(samples)


def _letter_id(tokenizer: Tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise ValueError(f"the letter {letter!r} must be one token, the tokenizer makes {ids}")
    return ids[0]
