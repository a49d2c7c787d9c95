import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_lora import LoraConfig, add_adapter, add_eva_adapter, load_adapter, save_adapter
from mlx_lora.eva import InputDirections, redistribute_ranks
from mlx_lora.initialize import loftq, olora, pissa

PEFT = dict(np.load(Path(__file__).parent / "fixtures/init.npz"))
SCALE = 5 / 3  # of the fixture: lora_alpha 5, r 3
FORMS = [
    *({"bits": bits, "group_size": 32, "mode": "affine"} for bits in (2, 3, 4, 5, 6, 8)),
    {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    {"bits": 8, "group_size": 32, "mode": "mxfp8"},
    {"bits": 4, "group_size": 16, "mode": "nvfp4"},
]


def matrix(seed: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(st.integers(0, 99), st.sampled_from([(9, 6), (6, 9), (8, 8)]), st.integers(1, 6))
def test_pissa_is_the_best_fit_of_its_rank(seed, shape, r):
    weight = matrix(seed, shape)
    a, b = pissa(mx.array(weight), r, 0.5)
    singular = np.linalg.svd(weight, compute_uv=False)
    rest = weight - 0.5 * np.array(b) @ np.array(a)
    np.testing.assert_allclose(np.square(rest).sum(), np.square(singular[r:]).sum(), atol=1e-4)
    np.testing.assert_allclose(mx.linalg.norm(a, axis=1), np.sqrt(singular[:r] / 0.5), rtol=1e-4)
    np.testing.assert_allclose(mx.linalg.norm(b, axis=0), np.sqrt(singular[:r] / 0.5), rtol=1e-4)
    assert (np.take_along_axis(np.array(a), np.abs(a).argmax(1)[:, None], 1) > 0).all()


@pytest.mark.parametrize("method", ["pissa", "olora"])
@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_the_parts_of_weights_are_those_of_peft(shape, method):
    weight = PEFT[f"{shape}.weight"]
    a, b, rest = (PEFT[f"{shape}.{method}.{name}"] for name in ("A", "B", "rest"))
    found = pissa(mx.array(weight), 3, SCALE) if method == "pissa" else olora(mx.array(weight), 3)
    our_a, our_b = map(np.array, found)
    signs = np.sign((our_a * a).sum(1))
    # PEFT's SVD in float32 is up to 3.4e-5 from one in float64; the next test is of ours.
    np.testing.assert_allclose(our_a, signs[:, None] * a, atol=5e-5)
    np.testing.assert_allclose(our_b, signs * b, atol=5e-5)
    np.testing.assert_allclose(weight - SCALE * our_b @ our_a, rest, atol=5e-5)


@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_pissa_is_that_of_float64(shape):
    weight = PEFT[f"{shape}.weight"]
    u, singular, vh = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    a, b = map(np.array, pissa(mx.array(weight), 3, SCALE))
    part = u[:, :3] * singular[:3] @ vh[:3]
    np.testing.assert_allclose(SCALE * b @ a, part, atol=2e-6)  # float32, entries to 2.5


@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_the_randomized_svd_is_nearer_to_the_exact_one_than_that_of_peft(shape):
    weight = mx.array(PEFT[f"{shape}.weight"])
    a, b = pissa(weight, 3, SCALE, 4, key=mx.random.key(0))
    ours = np.linalg.norm(weight - SCALE * b @ a)
    exact, of_peft = (
        np.linalg.norm(PEFT[f"{shape}.{method}.rest"]) for method in ("pissa", "pissa_niter_4")
    )
    # 10 more directions than r: within 1e-6 for 30 keys. Without them, as in PEFT, 1.3e-3 or more.
    assert exact * 0.9999 < ours < exact * 1.0001 < of_peft


def test_the_randomized_svd_is_near_and_repeatable():
    rng = np.random.default_rng(0)
    weight = mx.array(
        (matrix(1, (96, 40)) * 0.7 ** np.arange(40)) @ np.linalg.qr(rng.normal(size=(40, 40)))[0]
    ).astype(mx.float32)
    exact = np.linalg.norm(weight - pissa(weight, 4, 1.0)[1] @ pissa(weight, 4, 1.0)[0])
    found = [pissa(weight, 4, 1.0, 4, key=mx.random.key(7)) for _ in range(2)]
    near = np.linalg.norm(weight - found[0][1] @ found[0][0])
    assert exact <= near * 1.0001 < 1.02 * exact
    assert mx.array_equal(found[0][0], found[1][0])


@given(st.integers(0, 99), st.sampled_from([(9, 6), (6, 9)]), st.integers(1, 6))
def test_olora_is_a_part_of_the_qr_decomposition(seed, shape, r):
    weight = matrix(seed, shape)
    a, b = map(np.array, olora(mx.array(weight), r))
    np.testing.assert_allclose(b.T @ b, np.eye(r), atol=1e-5)
    np.testing.assert_allclose(b.T @ weight, a, atol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form['mode']}{form['bits']}")
def test_loftq_is_nearer_to_the_weights_than_quantization_alone(form):
    weight = mx.array(matrix(3, (64, 96)))
    plain = weight - mx.dequantize(*mx.quantize(weight, **form), **form)
    errors = []
    for iterations in (1, 5):
        a, b, arrays = loftq(weight, 8, 2.0, iterations=iterations, **form)
        rest = weight - mx.dequantize(*arrays, **form).astype(mx.float32) - 2.0 * b @ a
        errors.append(float(mx.linalg.norm(rest)))
    assert errors[1] <= errors[0] < 0.9 * float(mx.linalg.norm(plain.astype(mx.float32)))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form['mode']}{form['bits']}")
@given(seed=st.integers(0, 99), r=st.integers(1, 16), iterations=st.integers(1, 3))
def test_loftq_is_never_further_from_the_weights_than_quantization_alone(form, seed, r, iterations):
    weight = mx.array(matrix(seed, (16, 32)))
    plain = mx.dequantize(*mx.quantize(weight, **form), **form).astype(mx.float32)
    a, b, arrays = loftq(weight, r, 0.5, iterations=iterations, **form)
    near = mx.dequantize(*arrays, **form).astype(mx.float32) + 0.5 * b @ a
    assert np.linalg.norm(weight - near) <= np.linalg.norm(weight - plain)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form['mode']}{form['bits']}")
def test_the_scale_of_loftq_changes_its_factors_only(form):
    weight = mx.array(matrix(0, (16, 32)))
    (a, b, arrays), (small_a, small_b, same) = (
        loftq(weight, 2, scale, iterations=4, **form) for scale in (1.0, 4.0)
    )
    # Exact, as halves are: sqrt(S / 4) = sqrt(S) / 2.
    assert mx.array_equal(a, 2 * small_a)
    assert mx.array_equal(b, 2 * small_b)
    assert all(map(mx.array_equal, arrays, same))


def test_values_from_which_nothing_can_start_are_refused_before_any_work():
    weight = mx.ones((4, 64))
    broken = mx.where(mx.arange(64) < 2, mx.array([mx.nan]), weight)
    for call, message in (
        (lambda: pissa(weight, 0, 1.0), "r must be at least 1, got 0"),
        (lambda: olora(weight, -1), "r must be at least 1, got -1"),
        (lambda: pissa(weight[0], 1, 1.0), "weight must have the shape (out, in), got (64,)"),
        (lambda: pissa(weight, 1, 0.0), "scale (lora_alpha / r) must be positive, got 0.0"),
        (lambda: loftq(weight, 1, -0.5), "scale (lora_alpha / r) must be positive, got -0.5"),
        (lambda: pissa(weight, 1, 1.0, -1), "iterations must be at least 0, got -1"),
        (lambda: loftq(weight, 1, 1.0, iterations=0), "iterations must be at least 1, got 0"),
        (lambda: olora(broken, 1), "8 of the 256 entries of the weight are not finite"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


def test_a_rank_that_no_weight_of_this_shape_has_is_refused():
    for call in (lambda w: pissa(w, 5, 1.0), lambda w: olora(w, 5), lambda w: loftq(w, 5, 1.0)):
        with pytest.raises(ValueError, match=r"r must be at most 4 for a weight \(4, 64\), got 5"):
            call(mx.zeros((4, 64)))


@pytest.mark.parametrize("method", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"lora_bias": True},
        {"target_modules": ["embedding", "conv", "query"], "use_rslora": True},
    ],
    ids=str,
)
def test_a_start_from_the_weights_is_saved_as_a_plain_adapter(
    make, ids, stir, tmp_path, method, options
):
    model = make()
    options = {"target_modules": ["query", "value"]} | options
    config = LoraConfig(
        r=3, lora_alpha=5, init_lora_weights=method, rank_pattern={"1.query": 2}, **options
    )
    before = model(ids)
    add_adapter(model, config)
    np.testing.assert_allclose(model(ids), before, atol=1e-5)
    layer = model.layers[0].query
    assert mx.abs(layer.adapters["default"].lora_B.weight).max() > 0.05
    stir(model)
    save_adapter(model, tmp_path)
    other = make()
    loaded = load_adapter(other, tmp_path)
    assert (loaded.rank_of("layers.0.query"), loaded.rank_of("layers.1.query")) == (6, 4)
    assert loaded.init_lora_weights is True
    np.testing.assert_allclose(other(ids), model(ids), atol=1e-5)


def test_loftq_quantizes_the_layers_and_is_nearer_than_quantization(make, ids):
    exact = make(size=64)(ids)
    config = {"r": 16, "target_modules": ["query", "value", "dense", "output"]}
    outputs = []
    for method in ("loftq", True):
        model = make(size=64)
        if method is True:
            nn.quantize(model, bits=2, group_size=64, class_predicate=lambda path, m:
                        isinstance(m, nn.Linear) and "layers" in path)  # fmt: skip
        options = {"loftq_bits": 2, "loftq_iter": 3}
        add_adapter(model, LoraConfig(**config, init_lora_weights=method, loftq_config=options))
        assert isinstance(model.layers[0].dense.base_layer, nn.QuantizedLinear)
        outputs.append(float(mx.abs(model(ids) - exact).mean()))
    assert outputs[0] < 0.8 * outputs[1]


def test_loftq_needs_float_weights_and_knows_its_base_again(make, ids, tmp_path):
    config = LoraConfig(target_modules=["query"], init_lora_weights="loftq")
    quantized = make(size=64)
    nn.quantize(quantized)
    with pytest.raises(
        ValueError, match=r"layers\.0\.query is quantized already; 'loftq' needs the"
    ):
        add_adapter(quantized, config)
    model = make(size=64)
    add_adapter(model, config)
    with pytest.raises(ValueError, match="so it must be the first adapter"):
        add_adapter(model, config, "second")
    save_adapter(model, tmp_path)
    with pytest.raises(ValueError, match="was trained on weights that LoftQ made"):
        load_adapter(make(size=64), tmp_path)
    load_adapter(model, tmp_path, "again")


def test_directions_of_a_stream_are_those_of_all_of_it():
    x = matrix(0, (400, 12)) * np.linspace(3, 0.1, 12) + 5
    found = InputDirections(12)
    for part in np.split(x, [7, 100, 101, 300]):
        found.update(part)
    centered = x - x.mean(0)
    _, singular, directions = np.linalg.svd(centered, full_matrices=False)
    ratios = singular**2 / (singular**2).sum()
    np.testing.assert_allclose(found.explained_variance_ratio, ratios, rtol=1e-4)
    np.testing.assert_allclose(np.abs((found.components * directions).sum(1)), 1, atol=1e-4)


def test_directions_and_their_signs_are_those_of_peft_when_batches_lose_some():
    found = InputDirections(4)
    for batch in PEFT["directions.batches"]:
        found.update(batch)
    np.testing.assert_allclose(found.components, PEFT["directions.components"], atol=1e-5)
    np.testing.assert_allclose(found.explained_variance_ratio, PEFT["directions.ratios"], rtol=1e-5)


def test_vectors_that_have_no_directions_are_refused_and_change_nothing():
    found = InputDirections(2)
    with pytest.raises(ValueError, match=r"^x must have the shape \(N, in\), got \(2, 5, 4\)$"):
        found.update(np.ones((2, 5, 4)))
    found.update(matrix(0, (5, 4)))
    before = found.components.copy()
    for x, message in (
        (np.ones((5, 6)), "x must have the shape (N, 4), got (5, 6)"),
        (np.array([[1, 2, np.nan, np.inf]]), "2 of the 4 entries of x are not finite"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            found.update(x)
    assert (found.count, np.array_equal(found.components, before)) == (5, True)
    with pytest.raises(ValueError, match=r"^k must be at least 1, got 0$"):
        InputDirections(0)


class Parts(nn.Module):
    """Four layers, of which `a` and `d` have the same inputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))

    def __call__(self, x: mx.array) -> mx.array:
        a, b, c = mx.split(x, 3, -1)
        return self.a(a) + self.b(b) + self.c(c) + self.d(a)


def test_ranks_and_factors_of_eva_are_those_of_peft():
    model, batches = Parts(), [mx.array(batch) for batch in PEFT["eva.batches"]]
    config = LoraConfig(r=2, target_modules=list("abcd"))
    found = add_eva_adapter(model, config, batches, rho=2.0)
    assert found.rank_pattern == {"a": 3, "b": 3, "d": 2}
    assert isinstance(model.c, nn.Linear)
    for name in found.rank_pattern:
        a = getattr(model, name).adapters["default"].lora_A.weight
        np.testing.assert_allclose(a, PEFT[f"eva.{name}"], atol=1e-5)


def test_ranks_go_where_the_inputs_vary_most():
    ratios = {"a": np.array([0.9, 0.05, 0.01]), "b": np.array([0.3, 0.2, 0.1]),
              "c": np.array([0.02, 0.01, 0.01])}  # fmt: skip
    ranks = {"a": 2, "b": 2, "c": 2}
    assert redistribute_ranks(ratios, ranks, 1.5) == {"a": 2, "b": 3, "c": 1}
    assert redistribute_ranks(ratios, ranks, 1.0) == {"a": 2, "b": 2, "c": 2}


def test_eva_takes_its_directions_from_the_inputs_of_each_layer(make, ids, tmp_path):
    model = make()
    before, config = model(ids), LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"])
    inputs = {}
    original = model.layers[1].query
    batches = [mx.array(np.random.default_rng(i).integers(0, 24, (6, 7))) for i in range(4)]
    found = add_eva_adapter(model, config, batches, mask=lambda batch: batch > 3)
    np.testing.assert_allclose(model(ids), before, atol=1e-6)
    assert sum(found.rank_pattern.values()) == 12
    assert found.init_lora_weights == "eva"
    assert {found.scale_of(path) for path in found.target_modules} == {2.0}
    model = make()
    x = []
    for batch in batches:
        hidden = model.embedding(batch)
        hidden = hidden + model.conv(hidden)
        image = batch[:, :4].reshape(-1, 2, 2, 1) / 24
        hidden = hidden + model.conv2d(image).mean((1, 2))[:, None]
        x.append(np.array(hidden)[np.array(batch) > 3])
    inputs = np.concatenate(x)
    add_eva_adapter(model, config, batches, mask=lambda batch: batch > 3, rho=16 / 3)
    a = np.array(model.layers[0].query.adapters["default"].lora_A.weight)
    _, _, directions = np.linalg.svd(inputs - inputs.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs((a * directions[: len(a)]).sum(1)), 1, atol=1e-3)
    assert original is not None
    save_adapter(model, tmp_path)
    load_adapter(make(), tmp_path)


def test_eva_leaves_the_model_as_it_was_when_it_fails(make, ids):
    model = make()
    parameters, config = str(model), LoraConfig(r=8, target_modules=["query"])
    with pytest.raises(
        ValueError, match=r"layers\.0\.query has seen inputs of rank 7, fewer than its"
    ):
        add_eva_adapter(model, config, [ids[:1]])
    with pytest.raises(ValueError, match="conv is of type Conv1d; 'eva' is made for linear layers"):
        add_eva_adapter(model, LoraConfig(target_modules=["conv"]), [ids])
    with pytest.raises(ZeroDivisionError):
        add_eva_adapter(model, config, [ids], forward=lambda model, batch: 1 / 0)
    assert str(model) == parameters
    assert tree_flatten(model.trainable_parameters())


def test_loftq_returns_the_best_of_its_iterations():
    weight = mx.array(matrix(0, (16, 32)))
    form = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    errors = []
    for iterations in (4, 8):  # here the fifth and later ones are worse than the fourth
        a, b, arrays = loftq(weight, 2, 1.0, iterations=iterations, **form)
        rest = weight - mx.dequantize(*arrays, **form).astype(mx.float32) - b @ a
        errors.append(float(mx.linalg.norm(rest)))
    assert errors[0] == errors[1]
