from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_lora import (
    LoraConfig,
    active_adapters,
    add_adapter,
    combine_adapters,
    load_adapter,
    set_adapter,
)

FIXTURES = Path(__file__).parent / "fixtures/peft"
# Those of tools/make_fixtures_lora.py.
WEIGHTS = {
    "linear": [0.7, 0.4], "linear-negative": [0.7, -0.4], "cat": [0.7, 0.4], "svd": [0.7, 0.4],
    "ties": [0.7, 0.4], "ties-negative": [1.3, -0.2],
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_combinations_are_those_of_peft(make, name):
    data = mx.load(str(FIXTURES / "base.safetensors"))
    model = make()
    weights = {
        path: mx.moveaxis(a, 1, -1) if path.startswith("conv") and a.ndim > 2 else a
        for path, a in data.items() if "." in path
    }  # fmt: skip
    model.load_weights(list(weights.items()))
    for moment in ("start", "end"):
        load_adapter(model, FIXTURES / "lora" / moment, moment)
    method = name.partition("-")[0]
    combine_adapters(model, ["start", "end"], WEIGHTS[name], "new", method=method, density=0.4)
    assert active_adapters(model) == ("new",)
    expected = mx.load(str(FIXTURES / "combined.safetensors"))[name]
    np.testing.assert_allclose(model(data["ids"]), expected, atol=1e-5)


@pytest.fixture
def model(make, stir):
    model = make()
    for seed, (name, rank) in enumerate((("a", 2), ("b", 3))):
        add_adapter(model, LoraConfig(r=rank, lora_alpha=6, target_modules=["query"]), name)
        stir(model, seed)
    return model


def test_cat_is_the_weighted_sum_and_svd_of_full_rank_is_too(model):
    x = mx.random.normal((4, 16))
    layer = model.layers[0].query
    outputs = {}
    for name in ("a", "b", ()):
        set_adapter(model, name)
        outputs[name] = layer(x)
    base = outputs[()]
    expected = base + 0.5 * (outputs["a"] - base) - 2 * (outputs["b"] - base)
    for method, rank in (("cat", None), ("svd", 5)):
        combine_adapters(model, ["a", "b"], [0.5, -2], method, method=method, r=rank)
        np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_svd_is_the_best_fit_of_its_rank(model):
    combine_adapters(model, ["a", "b"], [1, 1], "all", method="cat")
    combine_adapters(model, ["a", "b"], [1, 1], "best", method="svd", r=2)
    known = model.layers[1].query.known
    whole = np.array(known["all"].delta())
    rest = whole - np.array(known["best"].delta())
    singular = np.linalg.svd(whole, compute_uv=False)
    np.testing.assert_allclose(np.square(rest).sum(), np.square(singular[2:]).sum(), rtol=1e-3)


def test_the_head_of_the_first_is_kept_and_two_heads_are_refused(make, ids, stir):
    model = make()
    head = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    for seed, (name, config) in enumerate(
        (("a", head), ("b", LoraConfig(r=2, target_modules=["query"])), ("c", head))
    ):
        add_adapter(model, config, name)
        stir(model, seed)
    set_adapter(model, "a")
    weight = model.classifier.weight
    combine_adapters(model, ["a", "b"], [1, 1], "new", method="cat")
    assert mx.array_equal(model.classifier.weight, weight)
    with pytest.raises(ValueError, match="classifier is trained whole by 'a', 'c'"):
        combine_adapters(model, ["a", "c"], [1, 1], "other", method="cat")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((["a", "b"], [1]), {}, "needs one weight for each adapter, got 1 for 2"),
        ((["a", "b"], [1, 1]), {}, r"'linear' needs adapters of one rank, got \[2, 3"),
        ((["a", "z"], [1, 1]), {}, "no adapter 'z'; valid: a, b"),
        ((["a"], [1]), {"method": "mean"}, "must be 'linear', 'cat', 'svd' or 'ties', got 'mean'"),
        ((["a"], [1]), {"method": "ties", "density": 0}, r"density must be in \(0, 1\], got 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_is_refused(model, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        combine_adapters(model, *arguments, "new", **options)


def test_dora_is_refused(model):
    add_adapter(model, LoraConfig(target_modules=["query"], use_dora=True), "d")
    with pytest.raises(ValueError, match=r"layers\.0\.query has DoRA of a LinearLora: only LoRA"):
        combine_adapters(model, ["a", "d"], [1, 1], "new", method="cat")
