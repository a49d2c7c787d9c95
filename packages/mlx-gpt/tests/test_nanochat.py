"""The model against float64 NumPy, nanochat's own code, and the rules of its initialization."""

import math
import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_gpt.models.convert import load_nanochat
from mlx_gpt.models.formats import named_parameters, tensor_names
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.training.losses import loss_sum, token_losses

FIXTURE = Path(__file__).parent / "fixtures/nanochat"

# sequence_len, vocab_size, n_layer, n_head, n_kv_head, n_embd, window_pattern; tokens
SHAPES = {
    "grouped queries, three layers, past the window": ((640, 70, 3, 4, 2, 32, "SSL"), 300),
    "an even number of layers, a full vocabulary": ((512, 64, 4, 3, 3, 24, "SSSL"), 150),
    "one layer, one key head": ((256, 100, 1, 2, 1, 32, "S"), 140),
    "more tokens than the longest window": ((130, 65, 2, 2, 2, 28, "sl"), 200),
    "short sequences, all layers long": ((64, 129, 5, 6, 3, 60, "L"), 20),
}


def reference_logits(config: NanochatConfig, weights: dict, ids: np.ndarray) -> np.ndarray:
    """Section by section what nanochat computes, one row of ids, in float64."""
    layers, heads, kv_heads = config.n_layer, config.n_head, config.n_kv_head
    x0 = np.array([rms_norm(weights["transformer.wte.weight"][i]) for i in ids])
    x0 = smear(weights, x0)
    x, middle = x0, None
    for i in range(layers):
        x = weights["resid_lambdas"][i] * x + weights["x0_lambdas"][i] * x0
        w = {
            name.removeprefix(f"transformer.h.{i}."): array
            for name, array in weights.items()
            if name.startswith(f"transformer.h.{i}.")
        }
        values = None
        if f"value_embeds.{i}.weight" in weights:
            values = weights[f"value_embeds.{i}.weight"][ids]
        assert (values is not None) == (i % 2 == (layers - 1) % 2)
        letter = (
            "L"
            if i == layers - 1
            else config.window_pattern.upper()[i % len(config.window_pattern)]
        )
        quarter = math.ceil(config.sequence_len / 4)
        window = config.sequence_len if letter == "L" else math.ceil(quarter / 128) * 128
        x = x + attention(w, rms_norm(x), values, window, heads, kv_heads)
        x = x + np.maximum(rms_norm(x) @ w["mlp.c_fc.weight"].T, 0) ** 2 @ w["mlp.c_proj.weight"].T
        if i == layers // 2:
            middle = x
    x = rms_norm(x - weights["backout_lambda"] * middle)
    logits = x @ weights["lm_head.weight"].T
    return 15 * np.tanh(logits[:, : config.vocab_size] / 15)


def smear(weights: dict, x: np.ndarray) -> np.ndarray:
    smeared = x.copy()
    for t in range(1, len(x)):
        gate = sigmoid(weights["smear_gate.weight"] @ x[t, :24])
        smeared[t] += weights["smear_lambda"] * gate * x[t - 1]
    return smeared


def attention(w: dict, x: np.ndarray, embedded, window: int, heads: int, kv_heads: int):
    T, D = x.shape
    q, k, v = ((x @ w[f"attn.c_{letter}.weight"].T).reshape(T, -1, D // heads) for letter in "qkv")
    if embedded is not None:
        gate = 3 * sigmoid(x[:, :12] @ w["attn.ve_gate.weight"].T)
        v = v + gate[:, :, None] * embedded.reshape(v.shape)
    q, k = 1.2 * rms_norm(rotate(q)), 1.2 * rms_norm(rotate(k))
    y = np.zeros_like(q)
    for t in range(T):
        first = max(0, t - window)
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            scores = k[first : t + 1, kv_head] @ q[t, head] / math.sqrt(D // heads)
            share = np.exp(scores - scores.max())
            y[t, head] = share / share.sum() @ v[first : t + 1, kv_head]
    return y.reshape(T, D) @ w["attn.c_proj.weight"].T


def rotate(x: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    frequencies = 100_000.0 ** (-np.arange(half) / half)
    angles = (np.arange(len(x))[:, None] * frequencies)[:, None]
    a, b = x[..., :half], x[..., half:]
    sin, cos = np.sin(angles), np.cos(angles)
    return np.concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1)


def rms_norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 2.0**-23)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def random_model(*sizes, seed: int = 0) -> Nanochat:
    """No weight is zero, and all matter."""
    random = np.random.default_rng(seed)
    model = Nanochat(NanochatConfig(*sizes))

    def draw(parameter: mx.array) -> mx.array:
        sigma = 0.5 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5
        return mx.array(random.normal(scale=sigma, size=parameter.shape).astype(np.float32))

    model.update(tree_map(draw, model.parameters()))
    return model


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize(("sizes", "tokens"), SHAPES.values(), ids=SHAPES)
def test_logits_are_those_of_a_float64_reference(sizes, tokens):
    model = random_model(*sizes)
    names = tensor_names(model)
    weights = {
        names[name]: np.array(p, dtype=np.float64) for name, p in named_parameters(model).items()
    }
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, (2, tokens))
    expected = np.stack([reference_logits(model.config, weights, row) for row in ids])
    got = np.array(model(mx.array(ids)))
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_logits_loss_and_gradients_are_nanochats_own():
    model = load_nanochat(FIXTURE, unsafe=True)
    expected = mx.load(str(FIXTURE / "expected.safetensors"))
    ids, targets = expected["ids"], expected["targets"]

    def mean_loss(model: Nanochat) -> mx.array:
        hidden = model.hidden_states(ids)
        total = loss_sum(hidden, model.head_weight, targets, cap=model.logit_cap)
        return total / (targets >= 0).sum()

    loss, gradients = nn.value_and_grad(model, mean_loss)(model)
    names = tensor_names(model)
    got = {names[name]: gradient for name, gradient in tree_flatten(gradients)}
    assert_near(model(ids)[:, ::7], expected["logits"])
    assert_near(loss, expected["loss"])
    compared = [name for name in expected if name.startswith("gradients.")]
    assert len(compared) == 13
    for name in compared:
        assert_near(got[name.removeprefix("gradients.")], expected[name], name)


def assert_near(got: mx.array, expected: mx.array, name: str = "") -> None:
    assert got.shape == expected.shape
    assert mx.abs(got - expected).max() <= 1e-5 * mx.abs(expected).max(), name


def test_checkpointed_blocks_give_equal_gradients_with_less_memory():
    sizes = (128, 64, 8, 2, 2, 32, "SL")
    ids = mx.array(np.random.default_rng(2).integers(0, 64, (4, 128)))

    def run(checkpoint_blocks: bool):
        model = random_model(*sizes)
        model.checkpoint_blocks = checkpoint_blocks

        def loss(model: Nanochat) -> mx.array:
            return loss_sum(model.hidden_states(ids), model.head_weight, mx.roll(ids, -1))

        mx.eval(model.parameters())
        mx.reset_peak_memory()
        value, gradients = nn.value_and_grad(model, loss)(model)
        mx.eval(value, gradients)
        return dict(tree_flatten(gradients)), mx.get_peak_memory()

    plain, most = run(False)
    checkpointed, less = run(True)
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        assert_near(checkpointed[name], gradient, name)
    assert less < most / 2


def test_bfloat16_activations_keep_float32_weights_and_logits():
    config = NanochatConfig(128, 70, 2, 2, 2, 32, "SL")
    model = Nanochat(config, mx.bfloat16).initialize(mx.random.key(0))
    dtypes = {name: parameter.dtype for name, parameter in named_parameters(model).items()}
    halves = {name for name, dtype in dtypes.items() if dtype == mx.bfloat16}
    assert halves == {"transformer.wte.weight", "value_embeds.0.weight"}
    assert set(dtypes.values()) == {mx.bfloat16, mx.float32}
    ids = mx.array([[1, 2, 3, 69]])
    assert model.hidden_states(ids).dtype == mx.bfloat16
    assert model(ids).dtype == mx.float32


def test_a_bfloat16_model_computes_nearly_what_the_float32_one_does():
    single = random_model(128, 70, 2, 2, 2, 32, "SL")
    half = Nanochat(single.config, mx.bfloat16)
    half.update(single.parameters())
    ids = mx.array(np.random.default_rng(3).integers(0, 70, (2, 50)))
    exact = single(ids)
    # Rounded to 8 bits about 20 times on the way.
    assert mx.abs(half(ids) - exact).mean() < 0.04 * mx.abs(exact).mean()


def test_a_fresh_model_predicts_every_token_alike():
    model = Nanochat(NanochatConfig(128, 70, 2, 2, 2, 32)).initialize(mx.random.key(0))
    ids = mx.array(np.random.default_rng(4).integers(0, 70, (2, 50)))
    losses = token_losses(model.hidden_states(ids), model.head_weight, ids, model.logit_cap)
    assert mx.abs(losses - math.log(70)).max() < 0.05


@pytest.fixture(scope="module")
def fresh() -> dict[str, np.ndarray]:
    """The initialized parameters of a model large enough for statistics."""
    config = NanochatConfig(256, 3000, 4, 4, 2, 192)
    model = Nanochat(config).initialize(mx.random.key(7))
    return {name: np.array(parameter) for name, parameter in named_parameters(model).items()}


@pytest.mark.parametrize(("name", "sigma"), [("transformer.wte", 0.8), ("lm_head", 0.001)])
def test_embedding_and_head_begin_normal(fresh, name, sigma):
    weights = fresh[f"{name}.weight"] / sigma
    assert weights.mean() == pytest.approx(0, abs=0.005)
    assert weights.std() == pytest.approx(1, rel=0.005)
    # Of normal numbers, 4.55 % lie beyond two deviations; of uniform ones, none.
    assert (np.abs(weights) > 2).mean() == pytest.approx(0.0455, rel=0.05)


@pytest.mark.parametrize(
    ("suffix", "count", "low", "high"),
    [
        ("attn.c_q.weight", 4, -1, 1),
        ("attn.c_k.weight", 4, -1, 1),
        ("attn.c_v.weight", 4, -1, 1),
        ("mlp.c_fc.weight", 4, -0.4, 0.4),
        ("value_embeds", 2, -1, 1),
    ],
)
def test_matrices_begin_uniform_with_the_deviation_of_the_width(fresh, suffix, count, low, high):
    chosen = [w for name, w in fresh.items() if suffix in name]
    assert len(chosen) == count
    for weights in chosen:
        assert_uniform(weights * math.sqrt(192 / 3), low, high)


def assert_uniform(weights: np.ndarray, low: float, high: float) -> None:
    width, near = high - low, 3 / weights.size
    assert low <= weights.min() <= low + 5 * width * near
    assert high - 5 * width * near <= weights.max() <= high
    error = 5 / math.sqrt(weights.size)  # in deviations
    assert abs(weights.mean() - (low + high) / 2) < error * width / math.sqrt(12)
    assert weights.std() == pytest.approx(width / math.sqrt(12), rel=error)


def test_gates_begin_slightly_positive(fresh):
    gates = [w for name, w in fresh.items() if "gate" in name]
    assert sorted(w.shape for w in gates) == [(1, 24), (2, 12), (2, 12)]
    for weights in gates:
        assert 0 <= weights.min() < 0.004
        assert 0.016 < weights.max() <= 0.02


def test_projections_into_the_residual_stream_begin_at_zero(fresh):
    projections = [w for name, w in fresh.items() if "c_proj" in name]
    assert len(projections) == 8
    assert not any(w.any() for w in projections)


def test_scalars_begin_on_a_line_over_the_layers(fresh):
    np.testing.assert_allclose(fresh["resid_lambdas"], 1.15 - 0.10 * np.arange(4) / 3, rtol=1e-6)
    np.testing.assert_allclose(fresh["x0_lambdas"], 0.20 - 0.15 * np.arange(4) / 3, rtol=1e-6)
    assert fresh["smear_lambda"].tolist() == [0]
    assert fresh["backout_lambda"] == pytest.approx([0.2])


def test_a_single_layer_begins_with_the_scalars_of_the_first():
    model = Nanochat(NanochatConfig(128, 64, 1, 1, 1, 24)).initialize(mx.random.key(0))
    assert model.resid_lambdas.tolist() == pytest.approx([1.15])
    assert model.x0_lambdas.tolist() == pytest.approx([0.20])


def test_no_two_parameters_begin_alike(fresh):
    drawn = [w.ravel()[:24] for w in fresh.values() if w.ndim == 2 and w.any()]
    assert len(drawn) == 2 + 4 * 4 + 2 + 3
    normalized = np.array([(w - w.mean()) / w.std() for w in drawn if w.size == 24])
    correlation = np.abs(normalized @ normalized.T / 24 - np.eye(len(normalized)))
    assert correlation.max() < 0.9


def test_initialization_follows_from_the_key():
    def draw(seed: int) -> mx.array:
        model = Nanochat(NanochatConfig(128, 64, 1, 1, 1, 24)).initialize(mx.random.key(seed))
        return model.transformer["wte"].weight

    assert mx.array_equal(draw(1), draw(1))
    assert not mx.array_equal(draw(1), draw(2))


@pytest.mark.parametrize(
    ("sequence_len", "short"), [(2048, 512), (1024, 256), (512, 128), (600, 256)]
)
def test_short_windows_are_a_quarter_in_steps_of_128(sequence_len, short):
    config = NanochatConfig(sequence_len=sequence_len, n_layer=6, window_pattern="SSSL")
    L, S = sequence_len, short
    assert config.windows == [S, S, S, L, S, L]


@pytest.mark.parametrize(("layers", "expected"), [(1, [0]), (2, [1]), (5, [0, 2, 4]), (4, [1, 3])])
def test_every_second_layer_has_value_embeddings_the_last_among_them(layers, expected):
    assert NanochatConfig(n_layer=layers).value_embedding_layers == expected


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_layer": 0}, "n_layer must be at least 1, got 0"),
        ({"n_embd": 100}, "n_embd must be an even multiple of n_head, got 100 and 6"),
        ({"n_embd": 30}, "n_embd must be an even multiple of n_head, got 30 and 6"),
        ({"n_kv_head": 4}, "n_head must be a multiple of n_kv_head, got 6 and 4"),
        ({"n_embd": 12}, "n_embd must be at least 24, got 12"),
        ({"window_pattern": "SM"}, "window_pattern must be made of S and L, got 'SM'"),
        ({"window_pattern": ""}, "window_pattern must be made of S and L, got ''"),
    ],
)
def test_sizes_that_make_no_model_are_refused(sizes, message):
    with pytest.raises(ValueError, match=exactly(message)):
        NanochatConfig(**sizes)
