import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_tabular import PiecewiseLinearEmbeddings, TabM, quantile_bins
from mlx_tabular.training import DropoutMasks


def make(**options):
    bins = quantile_bins(np.random.default_rng(0).normal(size=(50, 2)), 6)
    defaults = {"d_out": 2, "n_num_features": 2, "cat_cardinalities": [3], "n_dense_features": 1,
                "k": 3, "d_block": 8, "dropout": 0.0}  # fmt: skip
    return TabM(**(defaults | {"num_embeddings": PiecewiseLinearEmbeddings(bins, 4)} | options))


def batch(rows=6):
    rng = np.random.default_rng(1)
    x, dense = rng.normal(size=(rows, 2)), rng.normal(size=(rows, 1))
    codes = rng.integers(0, 3, (rows, 1))
    return [mx.array(x, mx.float32), mx.array(codes, mx.int32), mx.array(dense, mx.float32)]


def test_parameters_are_the_weights_only():
    names = [name for name, _ in tree_flatten(make().trainable_parameters())]
    expected = [
        f"backbone.blocks.{i}.0.{name}" for i in (0, 1) for name in ("weight", "r", "s", "bias")
    ]
    expected += ["output.weight", "output.bias", "num_module.linear.weight"]
    expected += ["num_module.linear0.weight", "num_module.linear0.bias"]
    assert sorted(names) == sorted(expected)


@pytest.mark.parametrize("arch", ["tabm", "tabm-mini", "tabm-packed"])
def test_one_member_is_the_plain_mlp(arch):
    model = make(k=1, arch_type=arch)
    p = {name: np.array(value) for name, value in tree_flatten(model.parameters())}
    x, codes, dense = batch()
    one_hot = np.eye(3)[np.array(codes)[:, 0]]
    hidden = np.concatenate([np.array(model.num_module(x)).reshape(6, -1), one_hot, dense], 1)
    for index in (0, 1):
        weight, bias = (p[f"backbone.blocks.{index}.0.{name}"] for name in ("weight", "bias"))
        hidden = np.maximum(hidden @ weight.T + bias, 0)
    expected = hidden @ p["output.weight"][0] + p["output.bias"]
    np.testing.assert_allclose(model(x, codes, dense)[:, 0], expected, atol=1e-5)


def test_members_differ_by_their_scalings_only():
    model = make(arch_type="tabm-mini")
    model.backbone.affine.weight = mx.repeat(model.backbone.affine.weight[:1], 3, 0)
    model.output.weight = mx.repeat(model.output.weight[:1], 3, 0)
    model.output.bias = mx.repeat(model.output.bias[:1], 3, 0)
    outputs = np.array(model(*batch()))
    np.testing.assert_allclose(outputs[:, 1:], outputs[:, :1].repeat(2, 1), atol=1e-6)


def test_first_scaling_is_one_value_per_feature_and_all_others_are_one():
    first, second = (block[0] for block in make().backbone.blocks)
    r = np.array(first.r)
    for start, stop in ((0, 4), (4, 8), (8, 11)):
        assert (r[:, start:stop] == r[:, start : start + 1]).all()
    assert len(np.unique(r)) == 3 * 4
    for scaling in (first.s, second.r, second.s):
        assert (np.array(scaling) == 1).all()
    plain = make(num_embeddings=None).backbone.blocks
    assert len(plain) == 3
    assert set(np.unique(plain[0][0].r).tolist()) == {-1.0, 1.0}


def test_an_unknown_code_is_all_zeros():
    model = make()
    x, _, dense = batch()
    weight = model.backbone.blocks[0][0].weight
    outputs = model(x, mx.full((6, 1), -1, mx.int32), dense)
    weight[:, 8:11] = 0.0
    model.backbone.blocks[0][0].weight = weight
    np.testing.assert_allclose(model(x, batch()[1], dense), outputs, atol=1e-6)


def test_dropout_scales_what_it_keeps_and_eval_turns_it_off():
    model = make(dropout=0.5)
    masks = DropoutMasks(model, 6, np.random.default_rng(0)).draw()
    values, counts = np.unique(masks[0], return_counts=True)
    assert values.tolist() == [0.0, 2.0]
    assert abs(counts[0] / counts.sum() - 0.5) < 0.15
    inputs = batch()
    model.eval()
    fixed = np.array(model(*inputs))
    np.testing.assert_array_equal(model(*inputs), fixed)
    model.train()
    assert not np.allclose(model(*inputs), fixed)
    assert not np.allclose(model(*inputs, masks=masks), fixed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1; got 0"),
        ({"arch_type": "mlp"}, "arch_type must be one of tabm, tabm-mini, tabm-packed; got 'mlp'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1; got 1.0"),
        (
            {"n_num_features": 3},
            "num_embeddings embeds 2 features, but n_num_features is 3",
        ),
        (
            {"n_num_features": 0, "num_embeddings": None, "cat_cardinalities": (),
             "n_dense_features": 0},
            "TabM needs at least one feature: a number, a category or a dense one",
        ),
    ],
)  # fmt: skip
def test_impossible_networks_are_refused(options, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        make(**options)


def test_bins_need_two_distinct_finite_values(exactly):
    with pytest.raises(ValueError, match=exactly("n_bins must be at least 2; got 1")):
        quantile_bins(np.ones((3, 1)), 1)
    with pytest.raises(ValueError, match=exactly("column 1 of x is constant; leave it out")):
        quantile_bins(np.array([[0, 1], [1, 1], [2, 1]]))
    message = "x has values that are not finite; fill missing values first"
    with pytest.raises(ValueError, match=exactly(message)):
        quantile_bins(np.array([[0.0], [np.nan]]))
