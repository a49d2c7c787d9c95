"""DPO and ORPO: TRL's losses and gradients, and a model that comes to prefer the chosen.

TRL's numbers are of tools/make_fixtures_preferences.py.
"""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from decoder_folders import FIXTURES, write_folder
from mlx.utils import tree_flatten, tree_map

from mlx_gpt.data.batching import MicroBatch, pair_arrays
from mlx_gpt.data.examples import Example, Pair
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

TRL = json.loads((FIXTURES / "preferences.json").read_text())
# MLX's exponential of float64 has the precision of float32; all else is exact to 1e-15.
NEAR = {"rel": 1e-7, "abs": 2e-8}


@pytest.mark.parametrize("pair", TRL["pairs"])
@pytest.mark.parametrize(("name", "smoothing"), [("dpo", 0.0), ("smoothed", 0.125)])
def test_dpo_is_trls_in_float64(pair, name, smoothing):
    """TRL's `DPOTrainer._compute_loss` on the sums of the tokens' log probabilities."""
    log_probs, reference = (mx.array([pair[key]], mx.float64) for key in ("log_probs", "reference"))

    def loss(log_probs):
        losses, rewards = preferences.dpo_losses(log_probs, reference, TRL["beta"], smoothing)
        return losses.sum(), rewards

    with mx.stream(mx.cpu):
        (found, rewards), gradient = mx.value_and_grad(loss)(log_probs)
        assert found.dtype == mx.float64
        assert float(found) == pytest.approx(pair[name]["loss"], **NEAR)
        assert gradient.tolist()[0] == pytest.approx(pair[name]["gradient"], **NEAR)
        expected = TRL["beta"] * (np.array(pair["log_probs"]) - pair["reference"])
        assert rewards.tolist()[0] == pytest.approx(expected, **NEAR)


@pytest.mark.parametrize("pair", TRL["pairs"])
def test_orpo_is_trls_in_float64(pair):
    """TRL's `ORPOTrainer.odds_ratio_loss` on the means, with the mean loss of the chosen answer."""
    counts = mx.array([[pair["count"]] * 2], mx.float64)

    def loss(log_probs):
        losses, rewards = preferences.orpo_losses(log_probs, counts, TRL["weight"])
        return losses.sum(), rewards

    with mx.stream(mx.cpu):
        log_probs = mx.array([pair["log_probs"]], mx.float64)
        (found, rewards), gradient = mx.value_and_grad(loss)(log_probs)
        assert found.dtype == mx.float64
        mean = pair["log_probs"][0] / pair["count"]
        assert float(found) == pytest.approx(pair["odds"]["loss"] - mean, **NEAR)
        slopes = np.array(pair["odds"]["gradient"]) - [1, 0]
        assert gradient.tolist()[0] == pytest.approx(slopes / pair["count"], **NEAR)
        assert rewards.tolist()[0] == pytest.approx(pair["odds"]["rewards"], **NEAR)


def llama_case(folder: Path, case: str):
    """Return the Llama of the fixture, and the batch of its rows with log p of the reference."""
    model = load_model(write_folder(folder, TRL["base"]), mx.float32)
    pairs = [Pair(*(_example(row[0], side) for side in row[1:])) for row in TRL[case]["rows"]]
    everything = MicroBatch([[i] for i in range(len(pairs))], 16)
    batch = {name: mx.array(each) for name, each in pair_arrays(pairs, everything, 0).items()}
    weights = model.parameters()
    model.update(tree_map(lambda each: 0.9 * each, weights))
    batch["reference"], _ = preferences.answer_log_probs(model, batch)
    mx.eval(batch)
    model.update(weights)
    return model, batch


def _example(prompt: list[int], answer: list[int]) -> Example:
    ids = np.array([*prompt, *answer], np.int32)
    return Example(ids, np.arange(len(ids)) >= len(prompt), "")


@pytest.mark.parametrize(
    ("case", "name"), [("answers", "dpo"), ("prompts", "dpo"), ("answers", "orpo")]
)
def test_losses_and_gradients_of_a_llama_are_those_of_trl(tmp_path, case, name):
    """In "answers" TRL's mean over all tokens of the chosen rows is that over their answers."""
    model, batch = llama_case(tmp_path / "base", case)
    objective = FinetuneObjective(name, beta=TRL["beta"], orpo_lambda=TRL["weight"])
    loss = preferences.preference_loss(objective)
    (found, count), gradients = nn.value_and_grad(model, loss)(model, batch)
    expected = TRL[case][name]
    assert float(found / count) == pytest.approx(expected["loss"], rel=1e-5)
    by_name = dict(tree_flatten(gradients))
    for path, each in expected["gradients"].items():
        gradient = by_name[path] / count
        assert float(mx.linalg.norm(gradient)) == pytest.approx(each["norm"], rel=2e-5)
        corner, size = np.array(each["corner"]), each["norm"] / gradient.size**0.5
        np.testing.assert_allclose(gradient[2:5, :4], corner, rtol=1e-4, atol=1e-4 * size)


def test_of_longer_prompts_orpos_odds_are_trls_and_prompts_are_not_learned(tmp_path):
    """TRL's `-p_chosen` is the loss of all tokens of the chosen rows, ours that of the answers."""
    model, batch = llama_case(tmp_path / "base", "prompts")
    expected = TRL["prompts"]["orpo"]
    log_probs, counts = preferences.answer_log_probs(model, batch)
    losses, _ = preferences.orpo_losses(log_probs, counts, TRL["weight"])
    answers = float(-(log_probs / counts)[:, 0].mean())
    assert float(losses.mean()) - answers == pytest.approx(
        expected["loss"] - expected["nll"], rel=1e-4
    )
    assert abs(answers - expected["nll"]) > 0.01


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
