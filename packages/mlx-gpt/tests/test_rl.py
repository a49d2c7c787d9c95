"""Reinforcement learning: its gradient is REINFORCE's, it is exact in what it learns and resumes."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_gpt.engine import Completion
from mlx_gpt.evaluate.gsm8k import problem
from mlx_gpt.losses import IGNORE
from mlx_gpt.models.files import save_model
from mlx_gpt.policy_gradient import arrays_of, group_of, loss_fn, passes
from mlx_gpt.rl import (
    AnswerConfig,
    DataConfig,
    ReportConfig,
    RlConfig,
    TrainingConfig,
    build,
    reinforce,
)

QUESTIONS = [problem(f"What is {i} + {i}?", f"<<{i}+{i}={2 * i}>>\n#### {2 * i}") for i in range(8)]


def count_of_e(conversation, text: str) -> float:
    """Reward answers with many of a common letter: something to learn in a few updates."""
    return float(text.count("e"))


@pytest.fixture
def base(tmp_path, tiny_model, tokenizer) -> str:
    save_model(tiny_model, tmp_path / "base")
    tokenizer.save(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def config(base) -> RlConfig:
    """Six rounds of four questions with four answers of at most eight tokens."""
    return RlConfig(
        base,
        DataConfig(""),
        AnswerConfig(questions=4, samples=4, max_tokens=8),
        TrainingConfig(3, device_batch_size=2, threads=1),
        ReportConfig(0, evaluation_samples=4, checkpoint_every=3),
    )


def run(config, folder, reward=count_of_e, resume=False, valid=(), stop_after=None):
    """Train; return the job and the events. Killed right after `stop_after` rounds."""
    job = build(config, reward, QUESTIONS, valid)
    events = []

    def report(event):
        events.append(event)
        if event["event"] == "update" and event["updates"] == stop_after:
            raise SystemExit  # nothing is saved any more, as after a kill

    try:
        reinforce(job, folder, report, resume)
    except SystemExit:
        assert stop_after
    return job, events


def of(kind, events, name):
    return [event[name] for event in events if event["event"] == kind]


def arrays(tree):
    return dict(tree_flatten(tree))


def completion(ids, mask=None):
    return Completion(list(ids), list(mask or [1] * len(ids)), "", "stop")


@pytest.fixture
def groups():
    """Three questions with two answers each, of which the second teaches nothing."""
    return [
        group_of([5, 6, 7], [completion([8, 9, 10], [1, 0, 1]), completion([11])], [1.0, 0.0]),
        group_of([5, 6], [completion([8, 9]), completion([12])], [0.3, 0.3]),
        group_of([7], [completion([20, 21, 22, 23]), completion([24, 25])], [0.0, 3.0]),
    ]


def test_advantages_are_relative_to_the_mean_of_the_group():
    found = group_of([1], [completion([2])] * 3, [1.0, 0.0, 0.5])
    assert [each.advantage for each in found] == [0.5, -0.5, 0.0]
    same = group_of([1], [completion([2])] * 3, [0.1, 0.1, 0.1])  # whose mean is not 0.1
    assert [each.advantage for each in same] == [0.0, 0.0, 0.0]


def test_prompt_and_forced_tokens_are_no_targets(groups):
    found = arrays_of(groups[0], padding=3)
    assert found["inputs"].shape == found["targets"].shape == found["weights"].shape == (2, 64)
    assert found["inputs"][0, :6].tolist() == [5, 6, 7, 8, 9, 10]
    assert found["inputs"][1, :5].tolist() == [5, 6, 7, 11, 3]
    learned = [(found["targets"][i] != IGNORE).nonzero()[0].tolist() for i in range(2)]
    assert learned == [[2, 4], [2]]  # the tokens at 3 and 5, which 2 and 4 predict
    assert found["targets"][0, [2, 4]].tolist() == [8, 10]
    np.testing.assert_allclose(found["weights"][0, [2, 4]], 0.5 / 3)
    assert found["weights"][1, 2] == pytest.approx(-0.5 / 3)
    assert np.count_nonzero(found["weights"]) == 3


def test_the_gradient_is_that_of_reinforce(groups, tiny_model):
    """By automatic differentiation of plain log-probabilities, question by question."""

    def objective(model):
        total = 0.0
        for group in groups:
            terms, count = [], 0
            for each in group:
                ids = mx.array([[*each.prompt, *each.completion.ids]])
                logits = model(ids)[0]
                chances = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
                for i, (token, drawn) in enumerate(
                    zip(each.completion.ids, each.completion.mask, strict=True)
                ):
                    if drawn:
                        terms.append(each.advantage * chances[len(each.prompt) - 1 + i, token])
                        count += 1
            total = total - sum(terms) / count
        return total / len(groups)

    expected = arrays(nn.value_and_grad(tiny_model, objective)(tiny_model)[1])
    batches = passes(groups, rows=2, padding=0)
    assert len(batches) == 2  # that without advantages is not computed, but counts
    sums, weight = None, 0.0
    for batch in batches:
        tensors = {name: mx.array(each) for name, each in batch.items()}
        (_, share), gradient = nn.value_and_grad(tiny_model, loss_fn)(tiny_model, tensors)
        sums = gradient if sums is None else tree_map(mx.add, sums, gradient)
        weight += float(share)
    assert weight == pytest.approx(3)
    for name, each in arrays(sums).items():
        np.testing.assert_allclose(
            each / weight, expected[name], rtol=1e-3, atol=1e-6, err_msg=name
        )


def test_a_round_that_teaches_nothing_still_has_a_batch(groups):
    [batch] = passes([groups[1]], rows=1, padding=0)
    assert not batch["weights"].any()


def test_the_reward_rises(config, tmp_path):
    training = replace(config.training, epochs=12, initial_rate=0.2)
    answers = replace(config.answers, samples=8)
    _, events = run(replace(config, training=training, answers=answers), tmp_path / "run")
    rewards = of("update", events, "reward")
    print(rewards, of("update", events,"seconds"))
    assert 0
    assert np.mean(rewards[-4:]) > 2 * np.mean(rewards[:4])
