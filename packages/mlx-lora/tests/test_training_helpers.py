"""Presets, estimates, LoRA+ and BitFit."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten

from mlx_lora import (
    PRESETS,
    Ia3Config,
    LoraConfig,
    add_adapter,
    bitfit,
    estimate,
    find_targets,
    lora_plus,
    lora_plus_rates,
    preset,
    save_adapter,
)


def count(tree) -> int:
    return sum(array.size for _, array in tree_flatten(tree))


def test_presets_have_the_scale_2_and_their_targets(make):
    model = make()
    assert list(PRESETS) == [
        "efficient", "balanced", "expressive", "qlora_memory", "qlora_quality",
    ]  # fmt: skip
    for name in PRESETS:
        found = preset(name, model)
        assert found.config.scale_of("layers.0.query") == 2
        assert (found.quantization is not None) == name.startswith("qlora")
        add_adapter(make(), found.config)
    assert preset("efficient", model).config.target_modules == ["query", "value"]
    assert preset("balanced", model, modules_to_save=["classifier"]).config.target_modules == (
        "all-linear"
    )
    with pytest.raises(ValueError, match="unknown preset 'balance'; did you mean 'balanced'"):
        preset("balance", model)


@pytest.mark.parametrize(
    "names", [["q_proj", "v_proj"], ["Wqkv"], ["qkv"], ["c_attn"], ["c_q", "c_v"]], ids=str
)
def test_presets_know_the_projections_of_other_models(names):
    model = nn.Module()
    model.layers = [{name: nn.Linear(4, 4) for name in (*names, "o_proj")}]
    assert preset("efficient", model).config.target_modules == names


def test_a_preset_of_queries_and_values_says_what_it_did_not_find():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="under a known name; set target_modules to some of '0'"):
        preset("efficient", model)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=3, target_modules=["query", "conv", "conv2d", "embedding"], use_dora=True),
        LoraConfig(r=3, target_modules=["query", "dense"], lora_bias=True, bias="lora_only"),
        LoraConfig(target_modules="all-linear", modules_to_save=["classifier"], bias="all"),
        LoraConfig(r=2, target_modules=["value", "query"], rank_pattern={"value": 5}),
        Ia3Config(target_modules=["value", "output"], feedforward_modules=["output"]),
    ],
)
@pytest.mark.parametrize("bits", [None, 4])
def test_the_estimate_is_what_comes_out(make, tmp_path, config, bits):
    model = make(size=64)
    expected = estimate(model, config, bits=bits, group_size=32)
    assert str(model) == str(make(size=64))
    if bits:
        nn.quantize(
            model, group_size=32, bits=bits,
            class_predicate=lambda path, layer: hasattr(layer, "to_quantized")
            and path not in (config.modules_to_save or ()),
        )  # fmt: skip
    weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    assert expected.weight_bytes == weights
    add_adapter(model, config)
    trained = model.trainable_parameters()
    assert expected.trained == count(trained)
    own = sum(a.size for path, a in tree_flatten(trained) if ".adapters." in path)
    assert (expected.adapter, expected.whole) == (own, expected.trained - own)
    optimizer = optim.AdamW(1e-3)
    optimizer.init(trained)
    assert expected.optimizer_bytes == sum(
        array.nbytes for path, array in tree_flatten(optimizer.state) if path.endswith((".m", ".v"))
    )
    save_adapter(model, tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert expected.file_bytes <= size < expected.file_bytes + 12_000  # of names
    assert f"trains {expected.trained:,} of" in str(expected)


def test_balanced_on_bert_base_is_small():
    model = nn.Module()
    model.layer = [{n: nn.Linear(768, 768) for n in ("query", "value")} for _ in range(12)]
    found = estimate(model, LoraConfig(r=8, target_modules=["query", "value"]))
    assert found.file_bytes == 4 * 768 * 8 * 2 * 24


def test_lora_plus_gives_b_the_higher_rate(make):
    model = make()
    config = LoraConfig(target_modules=["query", "embedding"], use_dora=True,
                        modules_to_save=["classifier"])  # fmt: skip
    add_adapter(model, config)
    rates = lora_plus_rates(model, 8.0, embedding_rate=0.5)
    inside = "layers.0.query.adapters.default."
    assert rates[f"{inside}lora_A.weight"] == 1
    assert rates["classifier.bias"] == 1
    assert rates[f"{inside}lora_B.weight"] == 8
    assert rates[f"{inside}lora_magnitude_vector"] == 8
    assert rates["embedding.adapters.default.lora_embedding_B"] == 0.5
    assert rates.keys() == dict(tree_flatten(model.trainable_parameters())).keys()
    with pytest.raises(ValueError, match="ratio must be at least 1"):
        lora_plus_rates(model, 0.5)


@pytest.mark.parametrize("schedule", [False, True])
def test_lora_plus_steps_are_those_of_each_rate(make, ids, schedule):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query", "value"]))
    rate = (lambda step: 1e-3 * (step + 1)) if schedule else 1e-3
    optimizer = lora_plus(model, optim.SGD, rate, ratio=4.0)
    before = dict(tree_flatten(model.trainable_parameters()))
    _, gradients = nn.value_and_grad(model, lambda: mx.square(model(ids)).sum())()
    optimizer.update(model, gradients)
    flat = dict(tree_flatten(gradients))
    for path, array in tree_flatten(model.trainable_parameters()):
        factor = 4.0 if "lora_B" in path else 1.0
        assert mx.allclose(array, before[path] - factor * 1e-3 * flat[path], atol=1e-7), path


def test_bitfit_trains_biases_and_the_head(make):
    model = make()
    paths = bitfit(model, ["classifier"])
    trained = {path for path, _ in tree_flatten(model.trainable_parameters())}
    assert trained == {p for p, _ in tree_flatten(model.parameters()) if p.endswith("bias")} | {
        "classifier.weight"
    }
    assert "layers.0.query.bias" in paths
    assert "classifier" in paths
    with pytest.raises(ValueError, match="modules_to_save has 'head', which is no module"):
        bitfit(make(), ["head"])
    with pytest.raises(ValueError, match="no parameter whose name is 'bias'"):
        bitfit(nn.Linear(2, 2, bias=False))


def test_targets_are_found_without_changing_the_model(make):
    model = make()
    assert [each.path for each in find_targets(model, LoraConfig(target_modules=["conv"]))] == [
        "conv"
    ]
    assert str(model) == str(make())
