"""The policy gradient of groups of answers to the same question, as arrays and a loss.

REINFORCE (Williams 1992): the gradient of a token's log-probability, times the advantage of its
answer, which is its reward minus the mean of its group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gpt.data import IGNORE
from mlx_gpt.engine import Completion
from mlx_gpt.evaluate.metrics import sum_over_ranks
from mlx_gpt.models.formats import Decoder
from mlx_gpt.training.losses import loss_sum

# Sequences are padded to a multiple of this, so that MLX compiles for few shapes.
LENGTH_STEP = 64


@dataclass
class Tally:
    """Counts over all rounds so far, of all ranks."""

    rounds: int = 0
    answers: int = 0
    rewarded: int = 0  # answers with a reward above 0
    questions: int = 0
    learned: int = 0  # questions whose answers differ in their rewards

    def add(self, found: Mapping[str, float]) -> None:
        """Count a round by the result of `summarize`."""
        self.rounds += 1
        for name in ("answers", "rewarded", "questions", "learned"):
            setattr(self, name, getattr(self, name) + int(found[name]))

    def is_unrewarded(self, rounds: int) -> bool:
        """Return whether the first `rounds` rounds had no reward; False if `rounds` is 0."""
        return 0 < rounds <= self.rounds and not self.rewarded

    def check(self) -> None:
        """Raise `ValueError` if no answer was ever rewarded: nothing was learned."""
        if self.answers and not self.rewarded:
            raise ValueError(
                f"none of the {self.answers:,} answers of {self.rounds:,} rounds was rewarded, so "
                "nothing was learned and no model is written: fine-tune the model longer on such "
                "problems (mlx-gpt sft --data gsm8k:FILE) until mlx-gpt evaluate --gsm8k finds "
                "some correct answers, or raise --samples or --max-tokens"
            )


@dataclass(frozen=True)
class Answer:
    """A prompt and the model's answer; `advantage` is relative to the mean of the group."""

    prompt: list[int]
    completion: Completion
    reward: float
    advantage: float


def make_group(
    prompt: list[int], completions: Sequence[Completion], rewards: Sequence[float]
) -> list[Answer]:
    """Return the answers to one prompt with their advantages, which sum to 0."""
    # The computed mean of equal numbers may differ from them.
    mean = rewards[0] if len(set(rewards)) == 1 else sum(rewards) / len(rewards)
    return [
        Answer(prompt, completion, reward, reward - mean)
        for completion, reward in zip(completions, rewards, strict=True)
    ]


def make_passes(groups: list[list[Answer]], rows: int, padding: int) -> list[dict[str, np.ndarray]]:
    """Return the micro-batches of an update, of `rows` answers to one question each.

    The loss of a pass is the mean over its sampled tokens, the loss of the update the mean over
    passes. A pass without any advantage counts in that mean, but is not computed.
    """
    found = [
        make_arrays(group[begin : begin + rows], padding)
        for group in groups
        for begin in range(0, len(group), rows)
    ]
    kept = [each for each in found if each["weights"].any()] or found[:1]
    share = len(found) / len(kept)
    return [each | {"share": np.full(rows, share / rows, np.float32)} for each in kept]


def make_arrays(answers: list[Answer], padding: int) -> dict[str, np.ndarray]:
    """Return inputs, targets and weights (B, T); sampled tokens weigh advantage / their number."""
    rows = [[*each.prompt, *each.completion.ids] for each in answers]
    length = -(-max(map(len, rows)) // LENGTH_STEP) * LENGTH_STEP
    ids = np.full((len(rows), length + 1), padding, np.int32)
    targets = np.full(ids.shape, IGNORE, np.int32)
    for i, (each, row) in enumerate(zip(answers, rows, strict=True)):
        ids[i, : len(row)] = row
        drawn = np.where(each.completion.mask, each.completion.ids, IGNORE)
        targets[i, len(each.prompt) : len(row)] = drawn
    targets = targets[:, 1:]
    advantages = np.array([each.advantage for each in answers])[:, None]
    weights = advantages * (targets != IGNORE) / max(1, (targets != IGNORE).sum())
    return {"inputs": ids[:, :-1], "targets": targets, "weights": weights.astype(np.float32)}


def policy_loss(model: Decoder, batch: dict[str, mx.array]) -> tuple[mx.array, mx.array]:
    """Return minus the sum of weight times log-probability, and the weight of the pass."""
    hidden = model.hidden_states(batch["inputs"])
    loss = loss_sum(hidden, model.head_weight, batch["targets"], batch["weights"], model.logit_cap)
    return loss, batch["share"].sum()


def summarize(groups: list[list[Answer]]) -> dict[str, float]:
    """Return means and counts over the answers of all ranks."""
    answers = [each for group in groups for each in group]
    sums = np.array([
        sum(each.reward for each in answers),
        sum(each.reward > 0 for each in answers),
        sum(len(each.completion.ids) for each in answers),
        sum(any(each.advantage for each in group) for group in groups),
        len(answers),
        len(groups),
    ], np.float64)  # fmt: skip
    reward, rewarded, tokens, learned, count, questions = sum_over_ranks(sums).tolist()
    return {"reward": reward / count, "answer_tokens": tokens / count,
            "questions_learned": learned / questions, "tokens": tokens, "answers": count,
            "rewarded": rewarded, "questions": questions, "learned": learned}  # fmt: skip
