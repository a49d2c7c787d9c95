"""Convolutions, experts, heads and fused projections, as one matrix or several."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_muon import Group, Muon, MuonRule, adamuon, keller, moonlight, nanochat, normuon
from mlx_muon.matrices import Matrices

RULES = {make.__name__: make().muon for make in (keller, moonlight, normuon, adamuon)} | {
    "nanochat": nanochat(768, 20).muon,
    "mup": MuonRule(scale="mup"),
    "plain": MuonRule(),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]


@pytest.fixture
def trained(train):
    """Return a function that trains one weight for 3 steps on given gradients."""

    def run(rule, path, weight, gradients):
        optimizer = Muon(0.02, weight_decay=0.1, groups=[Group("*", rule)], max_batch_bytes=0)
        for gradient in gradients:
            weight = optimizer.apply_gradients({path: gradient}, {path: weight})[path]
        return weight

    return run


@pytest.fixture
def three(gaussian):
    return lambda *shape: [gaussian(*shape, seed=seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("shape", [(8, 3, 3, 4), (40, 2, 2, 3), (6, 5, 2)])
def test_a_convolution_is_a_linear_layer_of_its_flattened_weight(
    shape, rule, trained, gaussian, three
):
    # In MLX's layout (outputs, kernel, ..., inputs). A scale from the last two axes would be up to
    # 5 times too small.
    weight, gradients = gaussian(*shape), three(*shape)
    found = trained(rule, "conv1.weight", weight, gradients)
    flat = [each.reshape(shape[0], -1) for each in gradients]
    expected = trained(rule, "linear.weight", weight.reshape(shape[0], -1), flat)
    assert mx.array_equal(found.reshape(shape[0], -1), expected)


def test_three_axes_are_experts_unless_a_name_or_kind_says_otherwise(
    rule, trained, gaussian, three
):
    weight, gradients = gaussian(3, 8, 6), three(3, 8, 6)
    experts = trained(rule, "mlp.experts.weight", weight, gradients)
    for expert in range(3):
        alone = trained(rule, "w", weight[expert], [each[expert] for each in gradients])
        assert mx.array_equal(experts[expert], alone)
    convolution = trained(rule, "conv.weight", weight, gradients)
    assert not mx.array_equal(convolution, experts)
    for path, kind, expected in [
        ("mlp.experts.weight", "convolution", convolution),
        ("conv.weight", "experts", experts),
    ]:
        assert mx.array_equal(trained(replace(rule, kind=kind), path, weight, gradients), expected)


@pytest.mark.parametrize("rows", [(8, 8, 8), (12, 4, 4), (16, 8, 1)])
def test_a_fused_projection_with_split_is_its_separate_weights(
    rows, rule, trained, gaussian, three
):
    columns = 8
    weight, gradients = gaussian(sum(rows), columns), three(sum(rows), columns)
    found = trained(replace(rule, split=rows), "qkv.weight", weight, gradients)
    start = 0
    for count in rows:
        part = slice(start, start + count)
        alone = trained(rule, "q.weight", weight[part], [each[part] for each in gradients])
        assert mx.array_equal(found[part], alone)
        start += count


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_heads_are_equal_parts(heads, rule, trained, gaussian, three):
    weight, gradients = gaussian(16, 12), three(16, 12)
    found = trained(replace(rule, heads=heads), "q.weight", weight, gradients)
    split = replace(rule, split=(16 // heads,) * heads)
    assert mx.array_equal(found, trained(split, "q.weight", weight, gradients))
    for head in range(heads):
        part = slice(head * 16 // heads, (head + 1) * 16 // heads)
        alone = trained(rule, "w", weight[part], [each[part] for each in gradients])
        assert mx.array_equal(found[part], alone)


def test_experts_may_be_split_as_well(rule, trained, gaussian, three):
    weight, gradients = gaussian(2, 12, 6), three(2, 12, 6)
    found = trained(replace(rule, split=(8, 4)), "gate_up.weight", weight, gradients)
    for expert in range(2):
        one = [each[expert] for each in gradients]
        alone = trained(replace(rule, split=(8, 4)), "w", weight[expert], one)
        assert mx.array_equal(found[expert], alone)


@pytest.mark.parametrize(("path", "shape"), [("q.lora_a", (24, 4)), ("q.lora_b", (4, 24))])
def test_lora_matrices_are_stored_inputs_first(path, shape, rule, trained, gaussian, three):
    weight, gradients = gaussian(*shape), three(*shape)
    found = trained(rule, path, weight, gradients)
    as_linear = trained(rule, "w", weight.T, [each.T for each in gradients])
    np.testing.assert_array_equal(found, as_linear.T)
    forced = trained(replace(rule, transposed=True), "w", weight, gradients)
    assert mx.array_equal(forced, found)
    plain = trained(replace(rule, transposed=False), path, weight, gradients)
    assert mx.array_equal(plain, trained(rule, "w", weight, gradients))


def test_a_transposed_weight_is_split_by_its_outputs(rule, trained, gaussian, three):
    weight, gradients = gaussian(6, 12), three(6, 12)
    found = trained(replace(rule, transposed=True, split=(8, 4)), "w", weight, gradients)
    transposed = [each.T for each in gradients]
    expected = trained(replace(rule, split=(8, 4)), "w", weight.T, transposed)
    np.testing.assert_array_equal(found, expected.T)


@pytest.mark.parametrize("limit", [1, 2000, 1 << 30])
def test_batches_of_any_size_equal_a_loop_bit_for_bit(limit, rule, gaussian, train):
    shapes = [(8, 20), (20, 8), (8, 20), (9, 9), (12, 9), (4, 8, 20), (9, 9), (12, 9), (3, 12, 9)]
    parameters = {f"w{index}": gaussian(*shape) for index, shape in enumerate(shapes)}
    loop = train(Muon(0.02, weight_decay=0.1, muon=rule, max_batch_bytes=0), parameters, 0, 4)
    batched = train(
        Muon(0.02, weight_decay=0.1, muon=rule, max_batch_bytes=limit), parameters, 0, 4
    )
    for path, expected in loop.items():
        assert mx.array_equal(batched[path], expected), path


@settings(deadline=None)
@given(
    batch=st.integers(1, 3),
    parts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    columns=st.integers(1, 5),
    transposed=st.booleans(),
)
def test_join_inverts_split(batch, parts, columns, transposed):
    matrices = Matrices(batch, tuple(parts), columns, transposed)
    rows = sum(parts)
    x = mx.arange(batch * rows * columns)
    x = x.reshape((batch, columns, rows) if transposed else (batch, rows, columns))
    stacks = matrices.split(x)
    assert [stack.shape for stack in stacks] == matrices.shapes
    assert mx.array_equal(matrices.join(stacks, x.shape), x)


@pytest.mark.parametrize(
    ("rule", "shape", "message"),
    [
        (
            MuonRule(split=(4, 4)),
            (12, 3),
            "group '*': w: split (4, 4) do not divide its 12 rows (shape (12, 3))",
        ),
        (
            MuonRule(split=(12, 0)),
            (12, 3),
            "group '*': w: split (12, 0) do not divide its 12 rows (shape (12, 3))",
        ),
        (
            MuonRule(heads=5),
            (12, 3),
            "group '*': w: 5 heads do not divide its 12 rows (shape (12, 3))",
        ),
        (
            MuonRule(heads=24),
            (12, 3),
            "group '*': w: 24 heads do not divide its 12 rows (shape (12, 3))",
        ),
        (
            MuonRule(),
            (12,),
            "group '*': w: shape (12,) is not a matrix, which Muon needs; give it an AdamWRule, or "
            "let the group match only arrays with ndim >= 2",
        ),
        (
            MuonRule(),
            (0, 3),
            "group '*': w: shape (0, 3) is not a matrix, which Muon needs; give it an AdamWRule, "
            "or let the group match only arrays with ndim >= 2",
        ),
    ],
)
def test_vectors_and_parts_that_do_not_divide_are_refused(rule, shape, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        Muon(groups=[Group("*", rule)]).init({"w": mx.zeros(shape)})
