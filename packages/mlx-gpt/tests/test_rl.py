"""Reinforcement learning: the gradient is REINFORCE's, the reward rises, runs resume exactly."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from click.testing import CliRunner
from mlx.utils import tree_flatten, tree_map

from mlx_gpt.commands.rl import rl as rl_command
from mlx_gpt.engine import Completion
from mlx_gpt.evaluate.gsm8k import make_problem
from mlx_gpt.models.files import load_model, save_model
from mlx_gpt.training import rl
from mlx_gpt.training.base_model import finetuning_optimizer
from mlx_gpt.training.losses import IGNORE
from mlx_gpt.training.policy_gradient import (
    make_arrays,
    make_group,
    make_passes,
    policy_loss,
    summarize,
)
from mlx_gpt.training.rl import build, gsm8k_reward, reinforce
from mlx_gpt.training.settings import RlAnswers, RlConfig, RlData, RlReport, RlTraining
from mlx_trainer import Checkpoints, RunFolder

QUESTIONS = [
    make_problem(f"What is {i} + {i}?", f"<<{i}+{i}={2 * i}>>\n#### {2 * i}") for i in range(8)
]


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
    """Four rounds of four questions with four answers of at most eight tokens."""
    return RlConfig(
        base,
        RlData(""),
        RlAnswers(questions=4, samples=4, max_tokens=8),
        RlTraining(2, device_batch_size=2, threads=1),
        RlReport(0, evaluation_samples=4, checkpoint_every=2),
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
        make_group([5, 6, 7], [completion([8, 9, 10], [1, 0, 1]), completion([11])], [1.0, 0.0]),
        make_group([5, 6], [completion([8, 9]), completion([12])], [0.3, 0.3]),
        make_group([7], [completion([20, 21, 22, 23]), completion([24, 25])], [0.0, 3.0]),
    ]


def test_advantages_are_relative_to_the_mean_of_the_group():
    found = make_group([1], [completion([2])] * 3, [1.0, 0.0, 0.5])
    assert [each.advantage for each in found] == [0.5, -0.5, 0.0]
    same = make_group([1], [completion([2])] * 3, [0.1, 0.1, 0.1])  # whose mean is not 0.1
    assert [each.advantage for each in same] == [0.0, 0.0, 0.0]


def test_prompt_and_forced_tokens_are_no_targets(groups):
    found = make_arrays(groups[0], padding=3)
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
    batches = make_passes(groups, rows=2, padding=0)
    assert len(batches) == 2  # that without advantages is not computed, but counts
    sums, weight = None, 0.0
    for batch in batches:
        tensors = {name: mx.array(each) for name, each in batch.items()}
        (_, share), gradient = nn.value_and_grad(tiny_model, policy_loss)(tiny_model, tensors)
        sums = gradient if sums is None else tree_map(mx.add, sums, gradient)
        weight += float(share)
    assert weight == pytest.approx(3)
    for name, each in arrays(sums).items():
        np.testing.assert_allclose(
            each / weight, expected[name], rtol=1e-3, atol=1e-6, err_msg=name
        )


def test_a_round_that_teaches_nothing_still_has_a_batch(groups):
    [batch] = make_passes([groups[1]], rows=1, padding=0)
    assert not batch["weights"].any()


def test_the_reward_rises(config, tmp_path):
    training = replace(config.training, epochs=5, initial_rate=0.5)
    answers = replace(config.answers, samples=8)
    _, events = run(replace(config, training=training, answers=answers), tmp_path / "run")
    rewards = of("update", events, "reward")
    assert np.mean(rewards[-3:]) > 2 * np.mean(rewards[:3])
    assert load_model(tmp_path / "run" / "model")


def test_rounds_resumed_after_a_kill_equal_those_of_a_whole_run(config, compiled, tmp_path):
    whole, events = run(config, tmp_path / "whole")
    assert of("update", events, "updates") == [1, 2, 3, 4]
    run(config, tmp_path / "cut", stop_after=3)
    resumed, later = run(config, tmp_path / "cut", resume=True)
    assert of("update", later, "updates") == [3, 4]
    for name in ("loss", "reward", "answer_tokens", "rate_scale"):
        assert of("update", later, name) == of("update", events, name)[2:]
    for tree in (lambda job: job.model, lambda job: job.step.optimizer.state):
        ours, theirs = (arrays(tree(job)) for job in (whole, resumed))
        assert ours.keys() == theirs.keys()
        assert all(mx.array_equal(each, theirs[name]) for name, each in ours.items())
    scales = of("update", events, "rate_scale")
    np.testing.assert_allclose(scales, [0.05 * (1 - i / 4) for i in range(4)])


def test_an_interrupt_finishes_the_round_and_leaves_a_checkpoint(config, tmp_path):
    job = build(config, count_of_e, QUESTIONS)

    def interrupt(event):
        if event["event"] == "update" and event["updates"] == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        reinforce(job, tmp_path / "run", interrupt)
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest().name == "step-00000002"
    assert load_model(tmp_path / "run" / "model")


def test_rounds_that_teach_nothing_leave_the_weights_alone(config, tmp_path, tiny_model):
    """nanochat would move every matrix by what is left of the momentum."""
    job, events = run(config, tmp_path / "run", reward=lambda conversation, text: 1.0)
    assert job.step.updates == 0
    assert of("update", events, "updates") == [1, 2, 3, 4]
    assert set(of("update", events, "questions_learned")) == {0.0}
    assert set(of("update", events, "reward")) == {1.0}
    before = arrays(tiny_model)
    assert all(mx.array_equal(each, before[name]) for name, each in arrays(job.model).items())
    _, again = run(config, tmp_path / "run", resume=True)
    assert [event["event"] for event in again] == ["start", "end"]


def test_every_question_is_asked_once_an_epoch(config):
    job = build(config, count_of_e, QUESTIONS)
    asked = [number for done in range(job.rounds) for number in rl.questions_of(job, done)]
    assert job.rounds == 4
    assert asked == [*range(8)] * 2


def test_answers_differ_and_are_the_same_when_drawn_again(config):
    job = build(config, count_of_e, QUESTIONS)
    first, again, next_round = (rl.answer(job, done) for done in (0, 0, 2))
    ids = [[each.completion.ids for each in group] for group in first]
    assert ids == [[each.completion.ids for each in group] for group in again]
    assert ids != [[each.completion.ids for each in group] for group in next_round]
    assert len({tuple(each) for group in ids for each in group}) > 8


def test_pass_at_k_counts_answers_with_a_reward(config):
    def has_e(conversation, text):
        return float("e" in text)

    job = build(config, has_e, QUESTIONS, QUESTIONS[:3])
    found = rl.evaluate(job, 0)
    again = rl.evaluate(job, 5)
    keys = [(1, number) for number in range(3)]
    _, drawn = rl.draw(job, QUESTIONS[:3], 4, keys)
    correct = np.array([[bool(has_e(None, each.text)) for each in group] for group in drawn])
    assert 0 < correct.mean() < 1
    assert found["pass@1"] == again["pass@1"] == pytest.approx(correct.mean())
    assert found["pass@4"] == pytest.approx(correct.any(axis=1).mean())
    assert found["updates"] == 0


def test_the_reward_of_gsm8k_is_the_final_number():
    assert gsm8k_reward(QUESTIONS[3], "3 + 3 = 6\n#### 6") == 1.0
    assert gsm8k_reward(QUESTIONS[3], "#### 7") == 0.0
    assert gsm8k_reward(QUESTIONS[3], "6") == 0.0


def test_rates_are_nanochats(tiny_model):
    optimizer = finetuning_optimizer(tiny_model, 2**19, 0.02, rl.MOMENTUM, rl.RATE_SCALES)
    width = (64 / 768) ** -0.5
    found = {group.name: float(optimizer.rate_of(group.rule)) for group in optimizer.groups}
    expected = {"wte": 0.2 * width, "value_embeds": 0.1 * width, "lm_head": 0.004 * width,
                "resid_lambdas": 0.005, "x0_lambdas": 0.5, "smear_gate": 0.2,
                "smear_lambda": 0.2, "backout_lambda": 0.2}  # fmt: skip
    assert found == pytest.approx(expected)
    assert (optimizer.base_rate, optimizer.muon.momentum) == (0.02, 0.95)
    assert optimizer.muon.weight_decay == 0


def test_the_summary_is_a_mean_over_answers(groups):
    found = summarize(groups)
    assert found["reward"] == pytest.approx((1.0 + 0.0 + 0.3 + 0.3 + 0.0 + 3.0) / 6)
    assert found["answer_tokens"] == pytest.approx(13 / 6)
    assert found["questions_learned"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"questions": 9},
         "got 8 questions, fewer than the 9 of a round (answers.questions)"),
        ({"samples": 1}, "answers.samples must be at least 2, to compare answers, got 1"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(config, answers, message):
    config = replace(config, answers=replace(config.answers, **answers))
    with pytest.raises(ValueError, match="answers") as error:
        build(config, count_of_e, QUESTIONS)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "name",
    ["answers.samples", "answers.batch_size", "training.device_batch_size",
     "report.evaluation_questions", "report.evaluation_samples"],
)  # fmt: skip
def test_a_size_of_0_is_refused_by_its_name(config, name):
    section, key = name.split(".")
    config = replace(config, **{section: replace(getattr(config, section), **{key: 0})})
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0$"):
        build(config, count_of_e, QUESTIONS)


RING = """
import sys
from pathlib import Path
from mlx_gpt.training.rl import build, reinforce
from mlx_gpt.training.settings import *
from mlx_gpt.evaluate.gsm8k import make_problem
from mlx_gpt.training.display import TrainingDisplay
from mlx_gpt.training.runs import open_run

base, folder = sys.argv[1:]
config = RlConfig(
    base, RlData(""), RlAnswers(questions=4, samples=4, max_tokens=8),
    RlTraining(1, device_batch_size=2, threads=1), RlReport(1, evaluation_samples=4),
)
questions = [make_problem(f"What is {i}?", f"#### {i}") for i in range(8)]
job = build(config, lambda conversation, text: float(text.count("e")), questions, questions[:3])
with open_run(Path(folder), config, False, False) as run, TrainingDisplay(run) as display:
    reinforce(job, Path(folder), display)
"""


def test_two_processes_that_share_the_questions_equal_one(base, tmp_path, alone_and_in_a_ring):
    alone_and_in_a_ring(lambda output, processes: [sys.executable, "-c", RING, base, output])
    alone, together = (RunFolder.open(tmp_path / name).metrics() for name in ("one", "two"))
    for kind, name in (("update", "loss"), ("update", "reward"), ("evaluate", "pass@2")):
        ours, theirs = of(kind, together, name), of(kind, alone, name)
        assert ours
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_command_trains_and_evaluates(base, tmp_path):
    rows = "".join(json.dumps(each) + "\n" for each in (
        {"question": f"What is {i}?", "answer": f"#### {i}"} for i in range(4)
    ))  # fmt: skip
    (tmp_path / "gsm8k.jsonl").write_text(rows)
    start = "from mlx_gpt.commands.rl import rl; rl()"
    data = str(tmp_path / "gsm8k.jsonl")
    done = subprocess.run(
        [sys.executable, "-c", start, "--model", base, "--data", data, "--valid", data,
         "--output", str(tmp_path / "run"), "--questions", "2", "--samples", "2",
         "--max-tokens", "4", "--device-batch-size", "2", "--set", "report.evaluation_samples=2"],
        capture_output=True, text=True,
        env=os.environ | {"MLX_DISABLE_COMPILE": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "4 questions, 2 rounds of 2 with 2 answers each, learned from 2 at once" in done.stderr
    assert "step 2: pass@1 0.0000  pass@2 0.0000" in done.stderr
    assert "round 2: 0 of 8 answers so far rewarded, 0 of 4 questions learned from" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "none of the 8 answers of 2 rounds was rewarded, so nothing was learned" in last
    assert not (tmp_path / "run" / "model").exists()
    lines = RunFolder.open(tmp_path / "run").metrics()
    assert of("evaluate", lines, "updates") == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "run"], "Missing option '--model'."),
        (["--output", "run", "--model", "base"], "Missing option '--data'."),
        (["--output", "run", "--resume", "--seed", "1"], "--resume takes everything from"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_loaded(arguments, message):
    result = CliRunner().invoke(rl_command, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_rounds_without_any_reward_stop_early_and_are_an_error(config, tmp_path):
    training = replace(config.training, epochs=8, unrewarded_rounds=3)
    events = []
    job = build(replace(config, training=training), lambda conversation, text: 0.0, QUESTIONS)
    with pytest.raises(ValueError, match=r"^none of the 48 answers of 3 rounds was rewarded"):
        reinforce(job, tmp_path / "run", events.append)
    assert job.rounds == 16
    assert of("tally", events, "rewarded") == [0]
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(ValueError, match=r"^none of the 64 answers of 4 rounds was rewarded"):
        run(job.config, tmp_path / "run", lambda conversation, text: 0.0, resume=True)


@pytest.mark.parametrize(("samples", "most", "rows"), [(4, 8, 4), (6, 4, 3), (7, 4, 1), (16, 8, 8)])
def test_a_pass_has_as_many_answers_as_divide_them(config, samples, most, rows):
    answers = replace(config.answers, samples=samples, questions=0)
    training = replace(config.training, device_batch_size=most)
    job = build(replace(config, answers=answers, training=training), count_of_e, QUESTIONS)
    assert job.rows == rows
    assert job.config.answers.questions == 8  # all there are
