"""DPO and ORPO: the formulas of TRL in float64, and a model that comes to prefer the chosen."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_gpt.models.files import load_model
from mlx_gpt.training import preferences
from mlx_gpt.training.finetune import build, evaluate, finetune
from mlx_gpt.training.finetune_settings import (
    FinetuneConfig,
    FinetuneData,
    FinetuneMethod,
    FinetuneObjective,
    FinetuneReport,
    FinetuneTraining,
)

RANDOM = np.random.default_rng(0)
LOG_PROBS, REFERENCE = -RANDOM.uniform(1, 40, (2, 6, 2))
COUNTS = RANDOM.integers(2, 12, (6, 2)).astype(float)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dpo(log_probs, reference, beta, smoothing):
    """TRL's DPOTrainer.dpo_loss of `loss_type="sigmoid"`, in float64, with its derivative."""
    logratios = log_probs[:, 0] - log_probs[:, 1]
    ref_logratios = reference[:, 0] - reference[:, 1]
    logits = logratios - ref_logratios
    losses = -np.log(sigmoid(beta * logits)) * (1 - smoothing)
    losses -= np.log(sigmoid(-beta * logits)) * smoothing
    slope = -beta * (sigmoid(-beta * logits) * (1 - smoothing) - sigmoid(beta * logits) * smoothing)
    return losses, np.stack([slope, -slope], 1)


def orpo(log_probs, counts, weight):
    """TRL's ORPOTrainer.odds_ratio_loss and the NLL of the chosen, with its derivative."""
    chosen, rejected = (log_probs / counts).T
    log_odds = (chosen - rejected) - (np.log1p(-np.exp(chosen)) - np.log1p(-np.exp(rejected)))
    losses = -chosen - weight * np.log(sigmoid(log_odds))
    slope = -weight * sigmoid(-log_odds)
    for_chosen = -1 + slope / (1 - np.exp(chosen))
    for_rejected = -slope / (1 - np.exp(rejected))
    return losses, np.stack([for_chosen, for_rejected], 1) / counts


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_is_trls(smoothing):
    def loss(log_probs):
        return preferences.dpo_losses(log_probs, mx.array(REFERENCE), 0.3, smoothing)[0].sum()

    losses, slopes = dpo(LOG_PROBS, REFERENCE, 0.3, smoothing)
    with mx.stream(mx.cpu):
        log_probs = mx.array(LOG_PROBS.astype(np.float32))
        found, gradient = mx.value_and_grad(loss)(log_probs)
        each, rewards = preferences.dpo_losses(log_probs, mx.array(REFERENCE), 0.3, smoothing)
    np.testing.assert_allclose(each, losses, rtol=1e-5, atol=1e-6)
    assert float(found) == pytest.approx(losses.sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rewards, 0.3 * (LOG_PROBS - REFERENCE), rtol=1e-5, atol=1e-5)


def test_orpo_is_trls():
    def loss(log_probs):
        return preferences.orpo_losses(log_probs, mx.array(COUNTS.astype(np.float32)), 0.2)[0].sum()

    losses, slopes = orpo(LOG_PROBS, COUNTS, 0.2)
    found, gradient = mx.value_and_grad(loss)(mx.array(LOG_PROBS.astype(np.float32)))
    assert float(found) == pytest.approx(losses.sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


COLOURS = ["red", "green", "blue", "brown", "black"]


@pytest.fixture(scope="module")
def config(tmp_path_factory, llama_folder):
    """Preferences for answers of one word over those of two; other questions are held out."""
    folder = tmp_path_factory.mktemp("pairs")

    def write(name, animals):
        rows = [
            {"prompt": f"The {colour} {animal}?", "chosen": colour, "rejected": f"{other} {colour}"}
            for animal in animals
            for colour, other in zip(COLOURS, COLOURS[1:] + COLOURS[:1], strict=True)
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(folder / name)

    return FinetuneConfig(
        llama_folder,
        FinetuneData([write("train", ["dog", "fox", "bridge"])], [write("valid", ["frog"])]),
        FinetuneMethod(rank=4, alpha=8),
        training=FinetuneTraining(2, batch_size=5, learning_rate=1e-2, warmup=0.0),
        report=FinetuneReport(checkpoint_seconds=0),
    )


def test_only_the_answers_count_and_padding_does_not(config):
    job = build(replace(config, objective=FinetuneObjective("orpo")))
    (batch,) = job.batches.next_update()
    batch = {name: mx.array(each) for name, each in batch.items()}
    log_probs, counts = preferences.answer_log_probs(job.model, batch)
    for row, pair in enumerate(job.batches.plan[0][0].rows):
        for side, each in enumerate(
            (job.train.rows[pair[0]].chosen, job.train.rows[pair[0]].rejected)
        ):
            logits = np.array(job.model(mx.array(each.ids[None, :-1])))[0].astype(np.float64)
            chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            chosen = chances[np.arange(len(logits)), each.ids[1:]]
            expected = chosen[each.trained[1:]].sum()
            assert float(log_probs[row, side]) == pytest.approx(expected, rel=1e-5)
            assert int(counts[row, side]) == each.trained[1:].sum()


@pytest.mark.parametrize("name", ["dpo", "orpo"])
def test_gradients_are_those_of_finite_differences(config, name):
    """Of the loss with respect to the hidden states' path, through one matrix of an adapter."""
    job = build(replace(config, objective=FinetuneObjective(name)))
    (arrays,) = job.batches.next_update()
    batch = {key: mx.array(each) for key, each in arrays.items()}
    path, factor = next((p, m) for p, m in job.model.named_modules() if p.endswith("lora_B"))
    factor.weight = 0.1 * mx.random.normal(factor.weight.shape, key=mx.random.key(1))
    loss = preferences.preference_loss(job.config.objective)
    import mlx.nn as nn

    _, gradients = nn.value_and_grad(job.model, loss)(job.model, batch)
    gradient = dict(tree_flatten(gradients))[f"{path}.weight"]
    start, way = factor.weight, mx.random.normal(gradient.shape, key=mx.random.key(2))
    values = []
    for sign in (1, -1):
        factor.weight = start + sign * 1e-2 * way
        values.append(float(loss(job.model, batch)[0]))
    slope = (values[0] - values[1]) / 2e-2
    assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize(("name", "method"), [("dpo", "lora"), ("dpo", "full"), ("orpo", "lora")])
def test_training_raises_the_preference_of_held_out_pairs(config, tmp_path, name, method):
    config = replace(config, objective=FinetuneObjective(name, beta=0.5))
    rate = 1e-2 if method == "lora" else 1e-3
    config = replace(
        config,
        method=replace(config.method, name=method),
        training=replace(config.training, epochs=4, learning_rate=rate),
    )
    job, events = build(config), []
    if name == "dpo":
        before = evaluate(job, job.valid)
        assert before["margin"] == pytest.approx(0, abs=1e-4)  # the reference is the start
        assert before["loss"] == pytest.approx(np.log(2), abs=1e-4)
    finetune(job, tmp_path / "run", events.append)
    scores = [event for event in events if event["event"] == "evaluate"]
    assert scores[-1]["loss"] < scores[0]["loss"]
    assert scores[-1]["accuracy"] == 1.0
    assert scores[-1]["margin"] > scores[0]["margin"] + 0.05
    assert load_model(tmp_path / "run")


def test_the_reference_of_an_adapter_is_the_model_without_it(config, tmp_path):
    objective = FinetuneObjective("dpo")
    trained = replace(config, training=replace(config.training, steps=2))
    finetune(build(replace(trained, objective=objective)), tmp_path / "run", lambda event: None)
    further = replace(config.method, init_from=str(tmp_path / "run"))
    plain = build(replace(config, objective=objective))
    again = build(replace(config, objective=objective, method=further))
    np.testing.assert_allclose(again.train.reference, plain.train.reference, rtol=1e-5)
    assert abs(evaluate(again, again.valid)["margin"]) > 1e-3
