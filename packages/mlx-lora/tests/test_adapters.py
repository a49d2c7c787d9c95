import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_lora import (
    LoraConfig,
    active_adapters,
    adapter_configs,
    add_adapter,
    delete_adapter,
    disable_adapters,
    load_adapter,
    merge,
    save_adapter,
    set_adapter,
    unmerge,
)

QUERY = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])


@pytest.fixture
def two(make, stir):
    """A model with the adapters "a" and "b", of other values and heads; "b" is active."""
    model = make()
    for seed, name in enumerate(("a", "b")):
        add_adapter(model, QUERY, name)
        stir(model, seed)
    return model


def test_each_adapter_has_its_own_outputs_and_head(two, make, ids):
    base, b = make()(ids), two(ids)
    set_adapter(two, "a")
    a = two(ids)
    assert mx.abs(a - b).max() > 1e-3 < mx.abs(a - base).max()
    set_adapter(two, "b")
    assert mx.array_equal(two(ids), b)
    set_adapter(two, ())
    assert mx.array_equal(two(ids), base)
    assert set(adapter_configs(two)) == {"a", "b"}
    assert active_adapters(two) == ()


def test_disabling_is_undone_also_after_an_error(two, make, ids):
    b, base = two(ids), make()(ids)
    with disable_adapters(two):
        assert mx.array_equal(two(ids), base)
    with pytest.raises(RuntimeError), disable_adapters(two):
        raise RuntimeError
    assert mx.array_equal(two(ids), b)


def test_only_the_active_adapter_is_trained_and_seen_by_an_optimizer(two):
    def names() -> set[str]:
        paths = [path for path, _ in tree_flatten(two.trainable_parameters())]
        return {path.split(".adapters.")[1].partition(".")[0] for path in paths if "adapt" in path}

    assert names() == {"b"}
    set_adapter(two, "a")
    assert names() == {"a"}
    set_adapter(two, ())
    assert not tree_flatten(two.trainable_parameters())


def test_a_compiled_function_follows_every_switch_and_is_traced_once_a_shape(two, ids):
    traced = []

    def forward(ids: mx.array) -> mx.array:
        traced.append(1)
        return two(ids)

    compiled = mx.compile(forward, inputs=[two.state])
    for names in ("b", "a", "b", "a", (), "a", (), "b"):
        set_adapter(two, names)
        np.testing.assert_allclose(compiled(ids), two(ids), atol=1e-6)
    assert len(traced) == 2  # with an adapter, and without


def test_a_compiled_function_follows_other_ranks_scales_and_methods(two, ids, stir):
    configs = {
        "scale": LoraConfig(r=2, lora_alpha=30, target_modules=["query"]),
        "rank": LoraConfig(r=3, target_modules=["query"]),
        "dora": LoraConfig(r=2, target_modules=["query"], use_dora=True),
        "where": LoraConfig(r=2, target_modules=["value"]),
    }
    for seed, (name, config) in enumerate(configs.items()):
        add_adapter(two, config, name)
        stir(two, seed)
    compiled = mx.compile(lambda ids: two(ids), inputs=[two.state])
    for name in (*configs, "a", *reversed(configs), "b"):
        set_adapter(two, name)
        np.testing.assert_allclose(compiled(ids), two(ids), atol=1e-6, err_msg=name)


def test_effects_of_several_active_adapters_add_up(make, stir):
    model, x = make(), mx.random.normal((3, 16))
    outputs = []
    for seed, name in enumerate(("a", "b")):
        add_adapter(model, LoraConfig(target_modules=["query"]), name)
        stir(model, seed)
        outputs.append(model.layers[0].query(x))
    set_adapter(model, ())
    base = model.layers[0].query(x)
    set_adapter(model, ["a", "b"])
    np.testing.assert_allclose(model.layers[0].query(x), sum(outputs) - base, atol=1e-5)


def test_what_does_not_add_up_is_refused(two, stir):
    with pytest.raises(ValueError, match="classifier is trained whole by 'a', 'b'; activate one"):
        set_adapter(two, ["a", "b"])
    add_adapter(two, LoraConfig(target_modules=["query"], use_dora=True), "d")
    with pytest.raises(ValueError, match="'d' is DoRA, which rescales the whole weight"):
        set_adapter(two, ["a", "d"])
    assert active_adapters(two) == ("d",)


def test_names_are_checked(two):
    with pytest.raises(ValueError, match="the model already has an adapter 'a'"):
        add_adapter(two, QUERY, "a")
    with pytest.raises(ValueError, match=r"must not be empty or have dots, got .a\.b."):
        add_adapter(two, QUERY, "a.b")
    with pytest.raises(ValueError, match="no adapter 'c'; valid: a, b"):
        set_adapter(two, "c")
    with pytest.raises(ValueError, match="no adapter 'x'; it has none"):
        delete_adapter(nn.Linear(2, 2), "x")


def test_deleting_the_last_adapter_gives_the_model_back(two, make, ids):
    plain = make()
    set_adapter(two, "a")
    a = two(ids)
    delete_adapter(two, "b")
    assert mx.array_equal(two(ids), a)
    delete_adapter(two, "a")
    assert str(two) == str(plain)
    for (path, want), (_, got) in zip(
        tree_flatten(plain.parameters()), tree_flatten(two.parameters()), strict=True
    ):
        assert mx.array_equal(want, got), path


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_are_trained_and_restored(make, ids, stir, bias):
    model = make()
    before = model(ids)
    add_adapter(model, LoraConfig(target_modules=["query", "value"], bias=bias))
    biases = {p for p, _ in tree_flatten(model.trainable_parameters()) if "adapters" not in p}
    assert "layers.0.query.base_layer.bias" in biases
    assert ("conv.bias" in biases) == (bias == "all")
    stir(model)
    adapted = model(ids)
    with disable_adapters(model):
        assert mx.array_equal(model(ids), before)
    assert mx.array_equal(model(ids), adapted)


def test_adapters_of_a_model_in_training_are_in_training(make):
    model = make()
    model.train()
    add_adapter(model, LoraConfig(target_modules=["query"], lora_dropout=0.5), "a")
    add_adapter(model, LoraConfig(target_modules=["query"], lora_dropout=0.5), "b")
    model.eval()
    set_adapter(model, "a")
    assert not model.layers[0].query.adapters["a"].training


def test_a_merged_model_is_not_switched(two):
    merge(two)
    for change in (lambda: set_adapter(two, "a"), lambda: add_adapter(two, QUERY, "c")):
        with pytest.raises(ValueError, match="the adapters 'b' are merged into the model; unmerge"):
            change()
    unmerge(two)
    set_adapter(two, "a")


def test_modules_that_cannot_be_kept_apart_are_refused(make):
    model = make()
    model.layers[1].query = model.layers[0].query
    with pytest.raises(ValueError, match=r"layers\.1\.query and layers\.0\.query are one module"):
        add_adapter(model, LoraConfig(target_modules=["query"]))
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"]), "a")
    whole = LoraConfig(target_modules=["embedding"], modules_to_save=["0"])
    with pytest.raises(ValueError, match=r"layers\.0 is to be trained whole, but layers\.0\.query"):
        add_adapter(model, whole, "b")
    model = make()
    add_adapter(model, whole, "b")
    with pytest.raises(
        ValueError, match=r"layers\.0\.query is in layers\.0, which another adapter"
    ):
        add_adapter(model, LoraConfig(target_modules=["query"]), "a")


def test_the_weight_of_an_adapted_layer_is_not_that_of_its_base(make):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["embedding"]))
    with pytest.raises(AttributeError, match="no weight, which would be that without the adapter"):
        _ = model.embedding.weight
    assert not hasattr(model.embedding, "num_embeddings")


def test_a_failed_load_leaves_a_model_trainable(make, tmp_path):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"]))
    save_adapter(model, tmp_path)
    tensors = mx.load(str(tmp_path / "adapter_model.safetensors"))
    mx.save_safetensors(
        str(tmp_path / "adapter_model.safetensors"), dict(list(tensors.items())[1:])
    )
    other = make()
    before = len(tree_flatten(other.trainable_parameters()))
    with pytest.raises(ValueError, match="1 missing tensors"):
        load_adapter(other, tmp_path)
    assert len(tree_flatten(other.trainable_parameters())) == before > 0
