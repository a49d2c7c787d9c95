import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_lora import (
    Ia3Config,
    LoraConfig,
    add_adapter,
    merge,
    merge_and_unload,
    set_adapter,
    unmerge,
)

FORMS = [
    None,
    *({"bits": bits, "group_size": 32, "mode": "affine"} for bits in (2, 3, 4, 5, 6, 8)),
    {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    {"bits": 8, "group_size": 32, "mode": "mxfp8"},
    {"bits": 4, "group_size": 16, "mode": "nvfp4"},
]
TARGETS = ["embedding", "query", "value", "conv", "output"]


def adapted(make, stir, form, scale=0.02, **options):
    model = make(size=64)
    if form:
        nn.quantize(model, **form)
    # MLX's embeddings of the other modes come out as bfloat16, a coarser reference.
    is_exact = form is None or form["mode"] == "affine"
    targets = TARGETS if is_exact else TARGETS[1:]
    add_adapter(model, LoraConfig(target_modules=targets, **options), key=mx.random.key(0))
    stir(model, scale=scale)
    return model


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form and f"{form['mode']}{form['bits']}")
def test_merged_outputs_are_those_of_the_adapter_and_unmerging_is_exact(
    make, ids, stir, form, use_dora
):
    model = adapted(make, stir, form, use_dora=use_dora)
    before, outputs = dict(tree_flatten(model.parameters())), model(ids)
    report = merge(model)
    np.testing.assert_allclose(model(ids), outputs, atol=1e-5, rtol=1e-5)
    # Measured: at most 3e-6, from adding a change of 1 % to a float32 weight.
    assert report.error < 2e-5
    assert report.retained == pytest.approx(1, abs=1e-5)
    unmerge(model)
    after = dict(tree_flatten(model.parameters()))
    assert after.keys() == before.keys()
    assert all(mx.array_equal(after[path], array) for path, array in before.items())
    assert mx.array_equal(model(ids), outputs)


@pytest.mark.parametrize("form", [None, FORMS[3]], ids=["float32", "4 bits"])
def test_unloading_leaves_plain_layers_of_the_former_paths(make, ids, stir, form):
    model = adapted(make, stir, form)
    outputs = model(ids)
    merged, _ = merge_and_unload(model)
    assert merged is model
    assert {path for path, _ in tree_flatten(model.parameters())} == {
        path for path, _ in tree_flatten(make(size=64).parameters())
    } | (
        {
            path
            for path, _ in tree_flatten(model.parameters())
            if path.endswith(("scales", "biases"))
        }
    )
    assert isinstance(model.layers[0].query, nn.Linear)
    np.testing.assert_allclose(model(ids), outputs, atol=1e-5, rtol=1e-5)


def test_the_report_says_what_rounding_leaves_of_a_small_adapter(make, stir, ids, caplog):
    model = adapted(make, stir, FORMS[3], scale=0.004)
    with caplog.at_level("WARNING"):
        report = merge(model, requantize=True)
    assert caplog.messages == [str(report)]
    quantized = [each for each in report.layers if each.form == "affine 4 bits"]
    assert len(quantized) == 7  # all but the convolution
    assert max(each.error for each in quantized) > 0.5
    assert "of the adapter's effect survives" in str(report)
    assert "rounding is as large as" in str(report)
    # Rounding errors do not cancel the change: they are added to it.
    layer = model.layers[0].query
    assert isinstance(layer.base_layer, nn.QuantizedLinear)
    unmerge(model)
    strong = adapted(make, stir, FORMS[3], scale=0.3)
    assert merge(strong, requantize=True).retained > 0.95


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: f"{form['mode']}{form['bits']}")
def test_quantizing_again_keeps_the_form_and_is_undone(make, ids, stir, form):
    model = adapted(make, stir, form, scale=0.1, lora_bias=False)
    outputs = model(ids)
    report = merge(model, requantize=True)
    base = model.layers[0].query.base_layer
    assert {name: getattr(base, name) for name in form} == form
    errors = {each.path: each.error for each in report.layers}
    assert errors["layers.0.query"] > 0
    assert mx.isfinite(model(ids)).all()
    unmerge(model)
    assert mx.array_equal(model(ids), outputs)


def test_retention_is_measured_on_the_stored_weights(make, stir):
    model = adapted(make, stir, FORMS[3], scale=0.02)
    layer = model.layers[0].query
    base = layer.base_layer
    dense = mx.dequantize(base.weight, base.scales, base.biases, 32, 4)
    delta = layer.adapters["default"].delta()
    found = {each.path: each for each in merge(model, requantize=True).layers}["layers.0.query"]
    new = layer.base_layer
    change = mx.dequantize(new.weight, new.scales, new.biases, 32, 4) - dense
    assert found.retained == pytest.approx(
        float((change * delta).sum() / (delta**2).sum()), rel=1e-4
    )
    error = float(mx.linalg.norm(change - delta) / mx.linalg.norm(delta))
    assert found.error == pytest.approx(error, rel=1e-4)


def test_bfloat16_weights_lose_a_part_and_the_report_says_so(make, stir):
    model = make(size=64)
    model.set_dtype(mx.bfloat16)
    add_adapter(model, LoraConfig(target_modules=TARGETS))
    stir(model, scale=1e-3)
    report = merge(model)
    assert report.error > 0.1
    assert "merge in float32, or keep the adapter apart" in str(report)
    assert {each.form for each in report.layers} == {"bfloat16"}


def test_several_adapters_are_merged_together(make, ids, stir):
    model = make()
    for seed, name in enumerate(("a", "b")):
        add_adapter(model, LoraConfig(target_modules=["query"]), name)
        stir(model, seed)
    add_adapter(model, Ia3Config(target_modules=["query"]), "c")
    stir(model, 5)
    set_adapter(model, ["a", "c", "b"])
    outputs = model(ids)
    set_adapter(model, "a")
    merge(model, ["a", "c", "b"])
    np.testing.assert_allclose(model(ids), outputs, atol=1e-5)


def test_the_head_of_the_merged_adapter_stays(make, ids, stir):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"], modules_to_save=["classifier"]))
    stir(model)
    outputs = model(ids)
    merge_and_unload(model)
    np.testing.assert_allclose(model(ids), outputs, atol=1e-5)
    add_adapter(model, LoraConfig(target_modules=["query"], modules_to_save=["classifier"]))
    np.testing.assert_allclose(model(ids), outputs, atol=1e-5)


def test_merging_needs_an_active_adapter_and_unmerging_a_merge(make):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"]))
    set_adapter(model, ())
    with pytest.raises(ValueError, match="no active adapter to merge"):
        merge(model)
    with pytest.raises(ValueError, match="the model is not merged"):
        unmerge(model)
    merge(model, "default")
    with pytest.raises(ValueError, match="unmerge it first"):
        merge(model)
