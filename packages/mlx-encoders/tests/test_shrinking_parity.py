"""Against torch, through the fixtures of tools/make_fixtures_shrinking.py.

There heads and units are gated by hooks. Tolerance 1e-5 relative to the largest entry: both sides
compute in float32.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_encoders import (
    distillation_loss,
    keep_layers,
    load_model,
    measure_importance,
    prune_heads,
    prune_units,
    sensitivity_loss,
)

FAMILIES = ("bert", "modernbert", "neobert")
TOLERANCE = 1e-5


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    return request.param


@pytest.fixture
def model(fixtures, name):
    return load_model(fixtures / name)[0]


@pytest.fixture
def case(fixtures, name, read_case):
    return read_case(fixtures / "shrinking" / f"{name}.safetensors")


def difference(found, expected, mask=None) -> float:
    found, expected = np.array(found), np.array(expected)
    if mask is not None:
        found, expected = (each[np.array(mask).astype(bool)] for each in (found, expected))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def loss(model, batch):
    return (model(batch["input_ids"], batch["attention_mask"]) * batch["cotangent"]).sum()


def test_importance_is_the_gradient_of_a_gate(model, case):
    found = measure_importance(model, loss, [case])
    assert difference(found.heads, case["heads.importance"]) < TOLERANCE
    assert difference(found.units, case["units.importance"]) < TOLERANCE


def test_pruned_models_equal_gated_ones(model, case):
    inputs = case["input_ids"], case["attention_mask"]
    found = measure_importance(model, loss, [case])
    for smaller, kind in (
        (prune_heads(model, 2, found.heads), "heads"),
        (prune_units(model, 16, found.units), "units"),
    ):
        expected = case[f"{kind}.hidden"]
        assert difference(smaller(*inputs), expected, inputs[1]) < TOLERANCE
        assert difference(model(*inputs), expected, inputs[1]) > 1e-3


def test_kept_layers_equal_those_of_torch(model, case):
    inputs = case["input_ids"], case["attention_mask"]
    smaller = keep_layers(model, np.array(case["layers"]).tolist())
    assert difference(smaller(*inputs), case["layers.hidden"], inputs[1]) < TOLERANCE


def test_distillation_equals_that_of_torch(fixtures, read_case):
    case = read_case(fixtures / "shrinking" / "distillation.safetensors")

    def compute(student):
        return distillation_loss(
            student,
            case["teacher"],
            case["labels"],
            temperature=3.0,
            alpha=0.3,
            sample_weight=case["weight"],
        )

    value, gradient = mx.value_and_grad(compute)(case["student"])
    assert difference(value, case["loss"]) < TOLERANCE
    assert difference(gradient, case["gradient"]) < TOLERANCE


def test_importance_leaves_the_model_alone_and_counts_frozen_weights(model, case):
    before = dict(tree_flatten(model.parameters()))
    expected = measure_importance(model, loss, [case])
    model.freeze()
    found = measure_importance(model, loss, [case, case])
    after = dict(tree_flatten(model.parameters()))
    assert all(before[path] is after[path] for path in before)
    assert not tree_flatten(model.trainable_parameters())
    assert difference(found.units, 2 * expected.units) < TOLERANCE

    def broken(model, batch):
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        measure_importance(model, broken, [case])
    again = dict(tree_flatten(model.parameters()))
    assert all(before[path] is again[path] for path in before)
    with pytest.raises(ValueError, match="the gradient of the loss is not finite; check the"):
        measure_importance(model, lambda model, batch: loss(model, batch) * mx.inf, [case])


def test_sensitivity_is_the_change_of_the_embeddings(name, model, case):
    """Of one unit, with the mean over draws of the squared slope as the squared change."""
    batch = {name: case[name] for name in ("input_ids", "attention_mask")}
    draws = [
        measure_importance(model, sensitivity_loss(seed), [batch]).units[0] for seed in range(60)
    ]
    unit = int(np.mean(draws, axis=0).argmax())
    expected = np.sqrt(np.square(np.array(draws)[:, unit]).mean())
    paths = {
        "bert": "encoder.layer.0.output.dense.weight",
        "modernbert": "layers.0.mlp.Wo.weight",
        "neobert": "transformer_encoder.0.ffn.w3.weight",
    }
    path = paths[name]
    weight = dict(tree_flatten(model.parameters()))[path]
    means, step = [], 0.05
    for factor in (1 + step, 1 - step):
        changed = np.array(weight)
        changed[:, unit] *= factor
        model.load_weights([(path, mx.array(changed))], strict=False)
        hidden, valid = model(**batch), batch["attention_mask"][..., None]
        means.append(np.array((hidden * valid).sum(axis=1) / valid.sum(axis=1)))
    change = np.linalg.norm(means[0] - means[1]) / (2 * step)
    # 60 draws have a standard error of 9 % in the root of the mean square.
    assert abs(expected / change - 1) < 0.3
