import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_lora import (
    Ia3Config,
    LoraConfig,
    MixedAdapters,
    adapter_rows,
    add_adapter,
    merge,
    set_adapter,
)

HEAD = ["classifier"]
CONFIGS = {
    "lora": LoraConfig(r=3, target_modules=["query", "conv", "embedding"], modules_to_save=HEAD),
    "wide": LoraConfig(r=5, lora_alpha=20, target_modules=["query", "dense", "conv2d"]),
    "dora": LoraConfig(r=2, target_modules=["query", "conv", "embedding"], use_dora=True),
    "ia3": Ia3Config(target_modules=["query", "output"], feedforward_modules=["output"],
                     modules_to_save=HEAD),
    "biased": LoraConfig(r=2, target_modules=["value", "query"], lora_bias=True),
}  # fmt: skip
ROWS = ["lora", None, "dora", "ia3", "lora"]


@pytest.fixture(params=[None, 4], ids=["float32", "4 bits"])
def model(request, make, stir):
    model = make(size=64)
    if request.param:
        nn.quantize(model, group_size=32, bits=request.param,
                    class_predicate=lambda path, layer: hasattr(layer, "to_quantized")
                    and "classifier" not in path)  # fmt: skip
    for seed, (name, config) in enumerate(CONFIGS.items()):
        add_adapter(model, config, name)
        stir(model, seed, scale=0.05)
    return model


def separately(model, ids, rows, call):
    found = []
    for row, name in enumerate(rows):
        set_adapter(model, () if name is None else name)
        found.append(call(model, ids[row : row + 1]))
    set_adapter(model, "wide")
    return mx.concatenate(found)


@pytest.mark.parametrize("rows", [ROWS, ["wide", "biased", "wide", "lora", None], [None] * 5])
@pytest.mark.parametrize(
    "call", [lambda m, i: m(i), lambda m, i: m.tied(i)], ids=["logits", "tied"]
)
def test_a_mixed_batch_is_one_pass_for_each_adapter(model, ids, rows, call):
    expected = separately(model, ids, rows, call)
    with adapter_rows(model, rows):
        np.testing.assert_allclose(call(model, ids), expected, atol=2e-5, rtol=1e-4)
    set_adapter(model, "wide")
    np.testing.assert_allclose(
        call(model, ids), separately(model, ids, ["wide"] * 5, call), atol=2e-5, rtol=1e-4
    )


def test_other_rows_need_no_compilation(model, ids):
    mixed = MixedAdapters(model, list(CONFIGS))
    traced = []

    def forward(ids: mx.array) -> mx.array:
        traced.append(1)
        return model(ids)

    compiled = mx.compile(forward, inputs=[model.state])
    for rows in (ROWS, ROWS[::-1], ["biased"] * 5, [None] * 5):
        expected = separately(model, ids, rows, lambda m, i: m(i))
        with mixed.rows(rows):
            np.testing.assert_allclose(compiled(ids), expected, atol=2e-5, rtol=1e-4)
    assert len(traced) == 1


def test_the_active_adapter_and_its_head_are_back_after_the_block(model, ids):
    set_adapter(model, "lora")
    before = model(ids)
    with pytest.raises(RuntimeError), adapter_rows(model, ROWS):
        raise RuntimeError
    assert mx.array_equal(model(ids), before)


def test_names_and_numbers_of_rows_are_checked(model, ids):
    mixed = MixedAdapters(model, ["lora", "dora"])
    not_stacked = "row 1 asks for 'ia3', which is not stacked here: 'lora'"
    with pytest.raises(ValueError, match=not_stacked), mixed.rows(["lora", "ia3"]):
        pass
    few = "batch has 5 rows, but 2 adapters were named"
    with pytest.raises(ValueError, match=few), mixed.rows(["lora", None]):
        model(ids)
    twice = "within a block of rows already"
    with mixed.rows(["lora"]), pytest.raises(ValueError, match=twice), mixed.rows(["dora"]):
        pass
    assert not any("rows" in layer for layer in model.modules())
    with pytest.raises(TypeError, match="one entry for each row"), mixed.rows("lora"):
        pass
    with pytest.raises(ValueError, match="no adapter 'lara'; did you mean 'lora'"):
        MixedAdapters(model, ["lara"])
    with pytest.raises(ValueError, match="names has 'lora' twice"):
        MixedAdapters(model, ["lora", "lora"])
    set_adapter(model, "lora")
    merge(model)
    with pytest.raises(ValueError, match="are merged into the model"):
        MixedAdapters(model, ["lora"])


def test_adapters_that_train_biases_are_refused(make, ids):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"], bias="all"), "a")
    with pytest.raises(ValueError, match="'a' trains the biases of the model"):
        MixedAdapters(model, ["a"])
