import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_lora import (
    Ia3Config,
    LoraConfig,
    active_adapters,
    adapter_configs,
    add_adapter,
    load_adapter,
    load_mlx_lm_adapter,
    read_config,
    save_adapter,
    save_mlx_lm_adapter,
    set_adapter,
)

HEAD = LoraConfig(
    r=3, lora_alpha=6, target_modules=["query", "embedding"], modules_to_save=["classifier"]
)


@pytest.fixture
def saved(make, stir, tmp_path):
    """A model with an adapter and a head, and the folder that they are saved in."""
    model = make()
    add_adapter(model, HEAD)
    stir(model)
    save_adapter(model, tmp_path / "adapter")
    return model, tmp_path / "adapter"


def rewrite(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = change(mx.load(str(path)))
    mx.save_safetensors(str(path), tensors)


def test_a_loaded_adapter_is_frozen_unless_it_is_to_be_trained(saved, make, ids):
    model, folder = saved
    other = make()
    config = load_adapter(other, folder)
    assert (config.r, tuple(config.modules_to_save)) == (3, ("classifier",))
    np.testing.assert_allclose(other(ids), model(ids), atol=1e-6)
    assert not tree_flatten(other.trainable_parameters())
    again = make()
    load_adapter(again, folder, trainable=True)
    assert {path for path, _ in tree_flatten(again.trainable_parameters())} == {
        path for path, _ in tree_flatten(model.trainable_parameters())
    }


def test_the_head_is_saved_also_when_it_was_only_unfrozen(make, ids, stir, tmp_path):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"]))
    model.classifier.unfreeze()
    stir(model)
    save_adapter(model, tmp_path)
    assert read_config(tmp_path).modules_to_save == ["classifier"]
    other = make()
    load_adapter(other, tmp_path)
    np.testing.assert_allclose(other(ids), model(ids), atol=1e-6)


def test_an_adapter_that_is_not_active_is_saved_with_its_own_head(saved, make, ids, stir, tmp_path):
    model, _ = saved
    outputs = model(ids)
    add_adapter(model, HEAD, "second")
    stir(model, 7)
    save_adapter(model, tmp_path / "first", "default")
    other = make()
    load_adapter(other, tmp_path / "first")
    np.testing.assert_allclose(other(ids), outputs, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if "classifier" not in k},
         "2 missing tensors: classifier.bias, classifier.weight"),
        (lambda t: t | {"base_model.model.layers.0.quary.lora_A.weight": mx.zeros((3, 16))},
         "1 unexpected tensors: layers.0.quary.lora_A.weight; did you mean "
         "'layers.0.query.lora_A.weight'?"),
        (lambda t: t | {"base_model.model.classifier.weight": mx.zeros((5, 16))},
         "1 mis-shaped tensors: classifier.weight (5, 16), expected (3, 16)"),
        (lambda t: t | {"model.x": mx.zeros(1)},
         "has 'model.x', which does not begin with 'base_model.model.'"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named_and_the_model_is_unchanged(
    saved, make, ids, change, message
):
    _, folder = saved
    rewrite(folder, change)
    other = make()
    add_adapter(other, LoraConfig(target_modules=["value"]), "first")
    before, frozen = other(ids), str(other.trainable_parameters().keys())
    plain = str(other)
    with pytest.raises(ValueError, match=r"[a-z]") as caught:
        load_adapter(other, folder)
    assert message in str(caught.value).replace("classifier.weight, classifier.bias",
                                                "classifier.bias, classifier.weight")  # fmt: skip
    assert str(folder) in str(caught.value)
    assert str(other) == plain
    assert (active_adapters(other), str(other.trainable_parameters().keys())) == (
        ("first",),
        frozen,
    )
    assert mx.array_equal(other(ids), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA' is not one of 'LORA', 'IA3'"),
        ({"use_qalora": True, "trainable_token_indices": [3]},
         "settings that this package does not have: trainable_token_indices=[3], use_qalora=True"),
        ({"r": 0}, "r must be at least 1, got 0"),
        ({"target_modules": ["attention"]},
         "target_modules has 'attention', which is no module; valid: embedding, conv"),
    ],
)  # fmt: skip
def test_settings_that_would_change_the_result_are_refused(saved, make, changes, message):
    _, folder = saved
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=r"[a-z]") as caught:
        load_adapter(make(), folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_folders_that_are_none_of_peft(tmp_path, make):
    with pytest.raises(
        FileNotFoundError, match=r"has no adapter_config\.json; name a folder saved"
    ):
        load_adapter(make(), tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text('{"peft_type": \n oops')
    with pytest.raises(ValueError, match=r"adapter_config\.json, line 2: not JSON"):
        load_adapter(make(), tmp_path)
    config.write_text('{"lora_parameters": {}}')
    with pytest.raises(ValueError, match="has no peft_type, so it is not of PEFT; load_mlx_lm_"):
        load_adapter(make(), tmp_path)
    config.write_text('{"peft_type": "LORA", "target_modules": ["query"]}')
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(
        FileNotFoundError, match=r"save the adapter_model\.bin there as safetensors"
    ):
        load_adapter(make(), tmp_path)


def test_other_paths_are_mapped(saved, ids):
    model, folder = saved

    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.encoder = inner

    prefix = "base_model.model."
    rewrite(folder, lambda t: {f"{prefix}encoder.{k.removeprefix(prefix)}": t[k] for k in t})
    names = mx.load(str(folder / "adapter_model.safetensors"))
    assert any(name.startswith("base_model.model.encoder.layers") for name in names)
    expected = model(ids)
    other = type(model)(16)
    mx.random.seed(0)
    other = type(model)(16).eval()
    load_adapter(other, folder, rename=lambda path: path.removeprefix("encoder."))
    np.testing.assert_allclose(other(ids), expected, atol=1e-6)


def test_ia3_round_trip(make, ids, stir, tmp_path):
    model = make()
    config = Ia3Config(target_modules=["value", "output"], feedforward_modules=["output"])
    add_adapter(model, config)
    stir(model)
    save_adapter(model, tmp_path)
    other = make()
    assert load_adapter(other, tmp_path).feedforward_modules == ["output"]
    np.testing.assert_allclose(other(ids), model(ids), atol=1e-6)


@pytest.mark.parametrize("use_dora", [False, True])
def test_mlx_lm_files_are_the_transposes(make, ids, stir, tmp_path, use_dora):
    model = make(blocks=3)
    config = LoraConfig(
        r=3, lora_alpha=6, target_modules=["query", "dense"], layers_to_transform=[1, 2],
        use_dora=use_dora, lora_dropout=0.1,
    )  # fmt: skip
    add_adapter(model, config)
    stir(model)
    save_mlx_lm_adapter(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "fine_tune_type": "dora" if use_dora else "lora",
        "num_layers": 2,
        "lora_parameters": {"rank": 3, "scale": 2.0, "dropout": 0.1, "keys": ["dense", "query"]},
    }
    tensors = mx.load(str(tmp_path / "adapters.safetensors"))
    a = model.layers[1].dense.adapters["default"].lora_A.weight
    assert mx.array_equal(tensors["layers.1.dense.lora_a"], a.T)
    assert len(tensors) == (12 if use_dora else 8)
    other = make(blocks=3)
    load_mlx_lm_adapter(other, tmp_path)
    np.testing.assert_allclose(other(ids), model(ids), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers_to_transform": [0]}, r"of the last layers, but here layers \[0\] of 2"),
        ({"rank_pattern": {"query": 4}}, r"mlx-lm has one rank and scale, but 'default' has"),
        ({"modules_to_save": ["classifier"]}, "no place for classifier, which is trained whole"),
        ({"lora_bias": True}, "has lora_bias, which mlx-lm's files have no place"),
        ({"target_modules": ["conv", "query"]}, "conv has LoRA of its type, which mlx-lm's"),
        ({"target_modules": ["embedding"]}, "mlx-lm adapts the layers of a model, and none is"),
        ({"target_modules": ["0.query", "1.dense"]}, "are adapted, and layer 0 differs"),
    ],
)  # fmt: skip
def test_what_mlx_lm_has_no_place_for_is_refused(make, tmp_path, options, message):
    model = make()
    add_adapter(model, LoraConfig(**({"target_modules": ["query", "dense"]} | options)))
    with pytest.raises(ValueError, match=message):
        save_mlx_lm_adapter(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_mlx_lm_folders_that_do_not_fit(make, tmp_path):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"]))
    save_mlx_lm_adapter(model, tmp_path)
    config = tmp_path / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"fine_tune_type": "full"}))
    with pytest.raises(ValueError, match="has fine_tune_type 'full', which is no adapter"):
        load_mlx_lm_adapter(make(), tmp_path)
    config.write_text(json.dumps(values))
    path = tmp_path / "adapters.safetensors"
    tensors = mx.load(str(path))
    mx.save_safetensors(str(path), tensors | {"layers.9.query.lora_a": mx.zeros((16, 8))})
    with pytest.raises(ValueError, match=r"layers\.9\.query\.lora_a fits no module"):
        load_mlx_lm_adapter(make(), tmp_path)
    mx.save_safetensors(str(path), tensors | {"layers.0.query.lora_a": mx.zeros((16, 2))})
    other = make()
    with pytest.raises(ValueError, match=r"mis-shaped tensors: layers\.0\.query\.lora_A"):
        load_mlx_lm_adapter(other, tmp_path)
    assert not adapter_configs(other)
    save_adapter(model, tmp_path)
    with pytest.raises(ValueError, match="has no lora_parameters; load_adapter reads PEFT's"):
        load_mlx_lm_adapter(make(), tmp_path)
    set_adapter(model, "default")


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_adapters_of_half_precision_are_trained_in_float32(saved, make, ids, dtype):
    model, folder = saved
    rewrite(folder, lambda tensors: {key: array.astype(dtype) for key, array in tensors.items()})
    other = make()
    load_adapter(other, folder, trainable=True)
    assert {array.dtype for _, array in tree_flatten(other.parameters())} == {mx.float32}
    np.testing.assert_allclose(other(ids), model(ids), atol=2e-2)


@pytest.mark.parametrize("method", ["loftq", "pissa_niter_4"])
def test_a_base_that_cannot_be_made_again_is_refused(saved, make, method):
    _, folder = saved
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": method}))
    with pytest.raises(ValueError, match=f"weights that init_lora_weights='{method}' changed"):
        load_adapter(make(), folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": "orthogonal"}))
    load_adapter(make(), folder)


def test_modules_to_save_are_endings_as_in_peft(make):
    model = make()
    model.pre_classifier = nn.Linear(16, 16)
    add_adapter(model, HEAD)
    trained = dict(tree_flatten(model.trainable_parameters()))
    assert {"classifier.weight", "pre_classifier.weight"} <= trained.keys()


def test_all_linear_is_saved_as_the_modules_that_it_was(make, ids, stir, tmp_path):
    model = make()
    config = LoraConfig(target_modules="all-linear", exclude_modules=["1.query"], bias="all")
    add_adapter(model, config)
    stir(model)
    save_adapter(model, tmp_path)
    saved = read_config(tmp_path).target_modules
    assert len(saved) == 8
    assert "layers.0.query" in saved
    assert "layers.1.query" not in saved
    other = make()
    load_adapter(other, tmp_path)
    np.testing.assert_allclose(other(ids), model(ids), atol=1e-6)


def test_names_that_fall_together_are_refused(saved, make):
    _, folder = saved
    with pytest.raises(ValueError, match=r"rename maps \d+ tensors of .* to 1 names"):
        load_adapter(make(), folder, rename=lambda path: "same")


@pytest.mark.parametrize("kept", [100, -40])
def test_a_truncated_file_is_named(saved, make, tmp_path, kept):
    _, folder = saved
    save_mlx_lm_adapter(_without_head(make), tmp_path / "other")
    for path, load in (
        (folder / "adapter_model.safetensors", load_adapter),
        (tmp_path / "other/adapters.safetensors", load_mlx_lm_adapter),
    ):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(
            ValueError, match="safetensors cannot be read; copy it again: "
        ) as caught:
            load(make(), path.parent)
        assert str(path) in str(caught.value)


def _without_head(make):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"]))
    return model
