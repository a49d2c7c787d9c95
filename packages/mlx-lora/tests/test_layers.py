import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_lora import Ia3Config, LoraConfig, add_adapter, disable_adapters, merge

EVERYTHING = ["embedding", "conv", "conv2d", "query", "value", "dense", "output"]
CONFIGS = {
    "lora": LoraConfig(r=3, lora_alpha=6, target_modules=EVERYTHING),
    "rslora": LoraConfig(r=4, lora_alpha=6, target_modules=EVERYTHING, use_rslora=True),
    "dora": LoraConfig(r=3, lora_alpha=6, target_modules=EVERYTHING, use_dora=True),
    "lora_bias": LoraConfig(r=3, target_modules=["conv", "query", "value"], lora_bias=True),
    "dora_bias": LoraConfig(
        r=3, target_modules=["conv", "query", "value"], lora_bias=True, use_dora=True
    ),
    "pissa": LoraConfig(r=3, target_modules=["query", "output"], init_lora_weights="pissa"),
    "olora": LoraConfig(r=3, target_modules=["query"], init_lora_weights="olora", use_dora=True),
    "ia3": Ia3Config(target_modules=["value", "dense", "output"], feedforward_modules=["output"]),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_new_adapter_changes_nothing_and_only_it_is_trained(make, ids, config):
    model = make()
    before = model(ids)
    add_adapter(model, config)
    np.testing.assert_allclose(model(ids), before, atol=2e-6)
    trained = [path for path, _ in tree_flatten(model.trainable_parameters())]
    assert trained
    assert all(".adapters.default." in path for path in trained)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_adapted_model_is_the_model_with_the_merged_weights(make, ids, stir, config):
    model = make()
    before = model(ids)
    add_adapter(model, config)
    stir(model)
    adapted, tied = model(ids), model.tied(ids)
    assert mx.abs(adapted - before).max() > 1e-3
    merge(model)
    np.testing.assert_allclose(model(ids), adapted, atol=1e-5)
    np.testing.assert_allclose(model.tied(ids), tied, atol=2e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_are_those_of_the_merged_weights(make, ids, stir, config):
    """Against finite differences of the loss, along a random direction.

    DoRA counts the lengths of its rows as constants, so there the magnitude alone is compared.
    """
    model = make()
    add_adapter(model, config)
    stir(model)
    parameters = dict(tree_flatten(model.trainable_parameters()))
    is_dora = getattr(config, "use_dora", False)
    chosen = [path for path in parameters if not is_dora or "magnitude" in path]
    directions = {path: mx.random.normal(parameters[path].shape) for path in chosen}

    def loss(step: float = 0.0) -> mx.array:
        moved = [(path, parameters[path] + step * directions[path]) for path in chosen]
        model.load_weights(moved, strict=False)
        return mx.square(model(ids)).sum()

    _, gradients = nn.value_and_grad(model, lambda: mx.square(model(ids)).sum())()
    gradients = dict(tree_flatten(gradients))
    slope = sum((gradients[path] * directions[path]).sum() for path in chosen)
    step = 1e-2
    found = (8 * (loss(step) - loss(-step)) - loss(2 * step) + loss(-2 * step)) / (12 * step)
    np.testing.assert_allclose(slope, found, rtol=5e-3)


def test_dora_gradients_count_the_lengths_of_rows_as_constants(make, stir):
    """The rule of the paper's section 4.3, from a dense V whose lengths have no gradient."""
    model = make()
    layer_in = mx.random.normal((4, 16))
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["query"], use_dora=True)
    add_adapter(model, config)
    stir(model)
    layer = model.layers[0].query
    adapter, base = layer.adapters["default"], layer.base_layer
    tensors = adapter.tensors()

    def dense(a: mx.array, b: mx.array, m: mx.array) -> mx.array:
        v = base.weight + 2 * b @ a
        lengths = mx.stop_gradient(mx.linalg.norm(v, axis=1))
        y = layer_in @ ((m / lengths)[:, None] * v).T + base.bias
        return mx.sin(y).sum()

    expected = mx.grad(dense, argnums=(0, 1, 2))(*tensors.values())
    _, gradients = nn.value_and_grad(layer, lambda: mx.sin(layer(layer_in)).sum())()
    found = gradients["adapters"]["default"]
    for want, got in zip(
        expected,
        (found["lora_A"]["weight"], found["lora_B"]["weight"], found["lora_magnitude_vector"]),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("use_dora", [False, True])
def test_a_quantized_layer_is_adapted_as_its_dequantized_one(make, ids, stir, bits, use_dora):
    config = LoraConfig(r=3, target_modules=["query", "value", "embedding"], use_dora=use_dora)
    outputs = []
    for dequantized in (False, True):
        model = make(size=64)
        nn.quantize(model, group_size=32, bits=bits)
        if dequantized:
            _dequantize(model)
        add_adapter(model, config, key=mx.random.key(0))
        stir(model)
        outputs.append((model(ids), model.tied(ids)))
    for found, expected in zip(*outputs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def _dequantize(model: nn.Module) -> None:
    for block in model.layers:
        for name in ("query", "value"):
            block[name] = _float_layer(block[name])
    model.embedding = _float_layer(model.embedding)


def _float_layer(layer: nn.Module) -> nn.Module:
    weight = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    if isinstance(layer, nn.QuantizedEmbedding):
        new = nn.Embedding(*weight.shape)
    else:
        new = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in layer)
    new.weight = weight
    if "bias" in layer:
        new.bias = layer.bias
    return new


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("use_dora", [False, True])
def test_outputs_keep_the_type_of_the_model_and_adapters_are_float32(make, ids, dtype, use_dora):
    model = make()
    model.set_dtype(dtype)
    add_adapter(model, LoraConfig(target_modules=EVERYTHING, use_dora=use_dora))
    assert model(ids).dtype == dtype
    assert {array.dtype for _, array in tree_flatten(model.trainable_parameters())} == {mx.float32}


def test_dropout_acts_in_training_alone_and_on_the_update_alone(make, ids, stir):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"], lora_dropout=0.5))
    model.train()
    assert mx.array_equal(model(ids), model(ids))  # B is zero: there is no update to drop from
    stir(model)
    assert not mx.array_equal(model(ids), model(ids))
    model.eval()
    assert mx.array_equal(model(ids), model(ids))


def test_the_expectation_with_dropout_is_the_output_without(make):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"], lora_dropout=0.3, use_dora=True))
    layer = model.layers[0].query
    layer.adapters["default"].lora_B.weight = mx.random.normal((16, 8))
    layer.adapters["default"].lora_magnitude_vector = mx.full((16,), 0.7)
    x = mx.broadcast_to(mx.random.normal((1, 16)), (40_000, 16))
    expected = layer(x[:1])
    layer.train()
    np.testing.assert_allclose(layer(x).mean(0, keepdims=True), expected, atol=0.05)


def test_training_lowers_the_loss_and_leaves_the_base_as_it_was(make, ids):
    model = make()
    kept = dict(tree_flatten(model.parameters()))
    before = model(ids)
    add_adapter(model, LoraConfig(target_modules="all-linear", use_dora=True))
    targets = mx.array([0, 1, 2, 0, 1])
    step = nn.value_and_grad(model, lambda: nn.losses.cross_entropy(model(ids), targets).mean())
    optimizer = optim.AdamW(learning_rate=5e-3)
    losses = []
    for _ in range(40):
        loss, gradients = step()
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]
    after = {path.replace(".base_layer", ""): a for path, a in tree_flatten(model.parameters())}
    assert all(mx.array_equal(after[path], array) for path, array in kept.items())
    with disable_adapters(model):
        assert mx.array_equal(model(ids), before)


def test_nn_quantize_leaves_the_matrices_of_adapters(make):
    model = make(size=64)
    add_adapter(model, LoraConfig(r=64, target_modules=["query"]))
    nn.quantize(model)
    layer = model.layers[0].query
    assert isinstance(layer.base_layer, nn.QuantizedLinear)
    assert layer.adapters["default"].lora_A.weight.dtype == mx.float32


def test_the_key_makes_initial_values_repeatable(make):
    config = LoraConfig(target_modules=EVERYTHING, init_lora_weights=False)
    found = []
    for key in (3, 3, 4):
        model = make()
        mx.random.seed(len(found))
        add_adapter(model, config, key=mx.random.key(key))
        found.append(model.layers[1].query.adapters["default"].lora_B.weight)
    assert mx.array_equal(found[0], found[1])
    assert not mx.array_equal(found[0], found[2])
    assert mx.abs(found[0]).max() > 0


def test_gradient_checkpointing_with_a_quantized_base_has_the_same_gradients(make, ids):
    model = make(size=64)
    nn.quantize(model, group_size=32, bits=4)
    add_adapter(model, LoraConfig(target_modules=["query", "dense"], use_dora=True))
    model.layers[0].query.adapters["default"].lora_B.weight = mx.random.normal((64, 8))
    loss = nn.value_and_grad(model, lambda: mx.square(model(ids)).mean())
    value, plain = loss()
    hidden = type(model).hidden

    def checkpointed(self, ids: mx.array) -> mx.array:
        x = self.embedding(ids)
        x = x + self.conv(x)
        x = x + self.conv2d(ids[:, :4].reshape(-1, 2, 2, 1) / 24).mean((1, 2))[:, None]
        for layer in self.layers:
            x = nn.utils.checkpoint(layer)(x)
        return x

    try:
        type(model).hidden = checkpointed
        again, other = loss()
    finally:
        type(model).hidden = hidden
    np.testing.assert_allclose(again, value, rtol=1e-6)
    for (path, want), (_, got) in zip(tree_flatten(plain), tree_flatten(other), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7, err_msg=path)


@pytest.mark.parametrize("use_dora", [False, True])
def test_convolutions_of_uneven_kernels_strides_and_dilation(stir, use_dora):
    model = nn.Sequential(nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)))
    x = mx.random.normal((2, 9, 8, 3))
    add_adapter(model, LoraConfig(r=2, target_modules=["0"], use_dora=use_dora))
    stir(model)
    adapted = model(x)
    merge(model)
    np.testing.assert_allclose(model(x), adapted, atol=1e-5)
