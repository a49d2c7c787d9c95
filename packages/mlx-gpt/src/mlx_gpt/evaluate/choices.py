"""Multiple-choice questions by likelihood: the choice whose tokens the model expects most.

Questions are scored as those of CORE, by the mean loss of a choice's tokens, without examples
before them and without a chat template.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlx_gpt.evaluate.core import choose_options
from mlx_gpt.evaluate.core_tasks import CoreTask, read_task
from mlx_gpt.evaluate.metrics import measure_accuracy
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer.loading import AnyTokenizer


def read_choices(path: Path, limit: int | None = None) -> tuple[CoreTask, int]:
    """Return at most `limit` questions, after a shuffle with a fixed seed, and how many there are.

    Rows have `query`, `choices` and `gold`, the index of the right choice. Raises `ValueError` with
    file and line for a malformed row.
    """
    task = read_task(path)
    if task.kind != "multiple_choice":
        raise ValueError(f"{path}: expected rows with query, choices and gold")
    return read_task(path, limit), len(task.examples)


def evaluate_choices(
    model: Decoder,
    tokenizer: AnyTokenizer,
    task: CoreTask,
    batch_size: int = 16,
    advance: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Return the accuracy, beside those of answers that need no model.

    `chance` guesses, `most_frequent` always takes the place that is right most often, `longest`
    takes the choice with the most characters. Under `mlx.launch` ranks share the questions.
    """

    def count_correct(numbers: Sequence[int]) -> int:
        chosen = choose_options(model, tokenizer, task, numbers, batch_size)
        return sum(task.examples[n].gold == each for n, each in zip(numbers, chosen, strict=True))

    examples = task.examples
    count = len(examples)
    ((place, times),) = Counter(each.gold for each in examples).most_common(1)
    longest = sum(
        max(range(len(each.pairs)), key=lambda i, each=each: len(each.pairs[i][1])) == each.gold
        for each in examples
    )
    return {
        "questions": count,
        "accuracy": measure_accuracy(count, count_correct, advance),
        "chance": sum(1 / len(each.pairs) for each in examples) / count,
        "most_frequent": {"choice": place + 1, "accuracy": times / count},
        "longest": longest / count,
    }
