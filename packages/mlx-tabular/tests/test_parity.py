"""Equal to the authors' torch packages; tools/make_fixtures_tabular.py made the fixtures."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_tabular import (
    PiecewiseLinearEmbeddings,
    TabM,
    TabularClassifier,
    fit_quantiles,
    quantile_bins,
    quantile_normal,
)
from mlx_tabular.training import Settings, Step

# Sums of a hundred float32 products of size 1 in another order.
TOLERANCE = 1e-5

CASES = {
    "tabm": ("tabm", "piecewise"),
    "tabm-plain": ("tabm", None),
    "tabm-mini": ("tabm-mini", "piecewise"),
    "tabm-packed": ("tabm-packed", "piecewise"),
    "mlp": ("tabm", "piecewise"),
}


def make_model(fixture, arch, kind, **options):
    embeddings = None
    if kind == "piecewise":
        embeddings = PiecewiseLinearEmbeddings([fixture[f"bins.{each}"] for each in range(3)], 5)
    return TabM(
        d_out=3, n_num_features=3, cat_cardinalities=[3, 4], num_embeddings=embeddings,
        arch_type=arch, n_blocks=2, d_block=6, **options,
    )  # fmt: skip


def named(fixture, prefix):
    start = f"{prefix}."
    return {k.removeprefix(start): mx.array(v) for k, v in fixture.items() if k.startswith(start)}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_authors(load_fixture, name):
    fixture = load_fixture(name)
    model = make_model(fixture, *CASES[name], k=1 if name == "mlp" else 4)
    model.load_weights([*named(fixture, "parameter").items()])
    model.eval()
    numbers, codes = mx.array(fixture["numbers"]), mx.array(fixture["codes"])

    def total(model):
        outputs = model(numbers, codes)
        return (outputs * mx.array(fixture["readout"])).sum(), outputs

    (_, outputs), gradients = nn.value_and_grad(model, total)(model)
    np.testing.assert_allclose(outputs, fixture["outputs"], rtol=TOLERANCE, atol=TOLERANCE)
    found, expected = dict(tree_flatten(gradients)), named(fixture, "gradient")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)


def test_three_training_steps_are_those_of_torch(load_fixture):
    fixture = load_fixture("steps")
    model = make_model(fixture, "tabm", "piecewise", k=4)
    model.load_weights([*named(fixture, "before").items()])

    step = Step(model, TabularClassifier._objective, Settings(2e-3, 0.1, 1.0, 7, 1, 1, 0, None))
    batch = [mx.array(fixture["numbers"]), mx.array(fixture["codes"]), None]
    weights = mx.array(fixture["weights"] / 7)
    ones = [mx.ones((4, 7, 6))] * 2
    losses = [float(step(batch, mx.array(fixture["labels"]), weights, ones)) for _ in range(3)]
    np.testing.assert_allclose(losses, fixture["losses"], rtol=TOLERANCE)
    expected = named(fixture, "after")
    for key, value in tree_flatten(model.parameters()):
        np.testing.assert_allclose(value, expected[key], atol=TOLERANCE, err_msg=key)


def test_quantile_transform_is_that_of_scikit_learn(load_fixture):
    fixture = load_fixture("quantiles")
    for column, fitted, expected in zip(
        fixture["x"].T, fixture["quantiles"].T, fixture["transformed"].T, strict=True
    ):
        quantiles = fit_quantiles(column[:90], 20)
        np.testing.assert_allclose(quantiles, fitted, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(quantile_normal(column, quantiles), expected, atol=1e-9)


def test_bins_are_those_of_the_authors(load_fixture):
    fixture = load_fixture("bins")
    for index, edges in enumerate(quantile_bins(fixture["x"], 8)):
        np.testing.assert_allclose(edges, fixture[f"bins.{index}"], rtol=1e-6, atol=1e-6)
