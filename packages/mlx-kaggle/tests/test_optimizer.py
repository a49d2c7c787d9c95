"""Who is optimized how: AdamW alone, or Muon for the matrices inside the encoder."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_encoders import BertConfig, ModernBertConfig, build_model, load_model
from mlx_heads import ClassificationHead
from mlx_kaggle.members.model import TextModel
from mlx_kaggle.members.optimizer import make_optimizer, optimizer_table, parameter_groups
from mlx_kaggle.settings.config import resolve_config
from mlx_muon import MuonRule

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
RATES = (
    "training.layer_decay=0.5",
    "training.head_rate=10",
    "training.muon_rate=4",
    "training.weight_decay=0.3",
)


def text_model(kind: str) -> TextModel:
    """A small model with a numeric branch."""
    if kind == "bert":
        encoder = build_model(BertConfig(**SMALL, intermediate_size=24), seed=1)
    else:
        encoder = build_model(
            ModernBertConfig(**SMALL, intermediate_size=24, local_attention=8), seed=1
        )
    return TextModel(encoder, ClassificationHead(16, 3, num_features=4, hidden_layer_size=8))


def settings(name: str, *overrides: str):
    return resolve_config("quick", overrides=[f"training.optimizer={name}", *overrides])


def gradients_of(model: TextModel, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    shapes = [(path, array.shape) for path, array in tree_flatten(model.parameters())]
    return tree_unflatten([(path, mx.array(rng.normal(size=shape))) for path, shape in shapes])


def after_updates(name: str, model: TextModel, updates: int) -> dict[str, np.ndarray]:
    """The parameters after random gradients, with rates set as `TrainStep` sets them."""
    optimizer = make_optimizer(settings(name, *RATES), model)
    optimizer.init(model.trainable_parameters())
    for update in range(updates):
        optimizer.learning_rate = mx.array(1e-3 / (1 + update), mx.float32)
        optimizer.update(model, gradients_of(model, update))
    return {path: np.array(array) for path, array in tree_flatten(model.parameters())}


def is_inner_matrix(path: str, shape: tuple[int, ...]) -> bool:
    """Told apart by the layers' own names, not by what the code under test uses."""
    return path.startswith(("encoder.encoder.layer.", "encoder.layers.")) and len(shape) == 2


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_muon_gets_the_matrices_inside_the_encoder_and_nothing_else(kind):
    model = text_model(kind)
    optimizer = make_optimizer(settings("muon"), model)
    for path, array in tree_flatten(model.parameters()):
        rule = optimizer.assignment(path, array).rule
        assert isinstance(rule, MuonRule) == is_inner_matrix(path, array.shape), path
    names = "query key value attention.output.dense intermediate.dense output.dense"
    expected = names if kind == "bert" else "Wqkv attn.Wo Wi mlp.Wo"
    table = optimizer_table(settings("muon"), model)
    assert all(f"2 x encoder.{'encoder.layer' if kind == 'bert' else 'layers'}.*." in table
               and f"{name}.weight" in table for name in expected.split())  # fmt: skip
    assert optimizer_table(settings("adamw"), model) is None


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_everything_else_is_updated_as_by_adamw(kind):
    before = {path: np.array(p) for path, p in tree_flatten(text_model(kind).parameters())}
    adamw, muon = (after_updates(name, text_model(kind), 4) for name in ("adamw", "muon"))
    for path, start in before.items():
        moved = np.abs(adamw[path] - start).max()
        assert moved > 1e-5
        difference = np.abs(adamw[path] - muon[path]).max()
        if is_inner_matrix(path, start.shape):
            assert difference > 0.1 * moved, path
        else:
            assert difference < 1e-3 * moved, path


# Fused projections, with the number of matrices in each.
@pytest.mark.parametrize(
    ("kind", "name", "parts"),
    [
        ("bert", "encoder.encoder.layer.1.intermediate.dense.weight", 1),
        ("modernbert", "encoder.layers.1.attn.Wqkv.weight", 3),
        ("modernbert", "encoder.layers.1.mlp.Wi.weight", 2),
        ("modernbert", "encoder.layers.1.mlp.Wo.weight", 1),
    ],
)
def test_the_first_update_is_the_polar_factor_of_each_part_and_decay(kind, name, parts):
    model = text_model(kind)
    before = np.array(dict(tree_flatten(model.parameters()))[name])
    gradient = np.array(dict(tree_flatten(gradients_of(model, 0)))[name])
    after = after_updates("muon", model, 1)[name]
    rate = 1e-3 * 0.5 * 4  # one layer below the head
    expected = []
    for part in np.split(gradient, parts):
        u, _, vt = np.linalg.svd(part, full_matrices=False)
        expected.append(0.2 * max(part.shape) ** 0.5 * (u @ vt))
    update = (before * (1 - rate * 0.3) - after) / rate
    wrong = np.linalg.norm(update - np.concatenate(expected)) / np.linalg.norm(expected)
    assert wrong < 0.2  # five iterations leave singular values in 0.85..1.15


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_rates_and_decay_are_those_of_the_groups_of_adamw(kind):
    model, config = text_model(kind), settings("muon", *RATES)
    optimizer, group_of = make_optimizer(config, model), parameter_groups(config, model.encoder)
    optimizer.init(model.trainable_parameters())
    optimizer.learning_rate = mx.array(2e-4, mx.float32)
    for path, array in tree_flatten(model.parameters()):
        rule, group = optimizer.assignment(path, array).rule, group_of(path, array)
        rate = 2e-4 * group.rate * (4 if isinstance(rule, MuonRule) else 1)
        assert float(optimizer.rate_of(rule)) == pytest.approx(rate, rel=1e-6)
        assert optimizer.decay_of(rule) == 0.3 * group.decay
        assert isinstance(rule, MuonRule) or (rule.betas, rule.eps) == ((0.9, 0.999), 1e-8)


def test_a_pretrained_folder_with_frozen_layers_is_assigned_too(tiny_modernbert):
    from mlx_kaggle.members.model import freeze

    encoder, _ = load_model(tiny_modernbert)
    freeze(encoder, "half")
    model = TextModel(encoder, ClassificationHead(32, 2))
    table = optimizer_table(settings("muon"), model)
    assert "encoder.layers.1.attn.Wqkv.weight 96x32 as 3 of 32x32" in table
    assert "encoder.layers.1.mlp.Wi.weight 64x32 as 2 of 32x32" in table
    assert "layers.0" not in table
    assert "embeddings" not in table


def test_a_learning_rate_of_zero_changes_nothing():
    model = text_model("modernbert")
    before = {path: np.array(p) for path, p in tree_flatten(model.parameters())}
    optimizer = make_optimizer(settings("muon"), model)
    optimizer.init(model.trainable_parameters())
    optimizer.learning_rate = mx.array(0.0)
    optimizer.update(model, gradients_of(model, 0))
    for path, array in tree_flatten(model.parameters()):
        np.testing.assert_array_equal(np.array(array), before[path], path)
