import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlx_lora import Ia3Config, LoraConfig, adapter_configs, add_adapter, explain, find_targets


def paths(model: nn.Module, **options) -> list[str]:
    return [target.path for target in find_targets(model, LoraConfig(**options))]


def test_suffixes_match_whole_parts_of_paths(make):
    model = make()
    assert paths(model, target_modules=["query"]) == ["layers.0.query", "layers.1.query"]
    assert paths(model, target_modules=["layers.1.query"]) == ["layers.1.query"]
    assert paths(model, target_modules=["1.query", "embedding"]) == ["embedding", "layers.1.query"]


def test_an_expression_matches_whole_paths(make):
    model = make()
    assert paths(model, target_modules=r"layers\.\d\.(query|value)") == [
        "layers.0.query", "layers.0.value", "layers.1.query", "layers.1.value",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="matches no module"):
        paths(model, target_modules="query")


def test_all_linear_leaves_the_head_to_save_and_the_output_of_a_vocabulary(make):
    model = make()
    linear = paths(model, target_modules="all-linear", modules_to_save=["classifier"])
    assert len(linear) == 8
    assert "classifier" not in linear
    assert "classifier" in paths(model, target_modules="all-linear")
    model.lm_head = nn.Linear(16, 24)
    assert "lm_head" not in paths(model, target_modules="all-linear")


def test_layers_ranges_exclusions_and_patterns(make):
    model = make()
    chosen = {"target_modules": ["query", "value"]}
    assert paths(model, **chosen, layers_to_transform=1) == ["layers.1.query", "layers.1.value"]
    assert paths(model, **chosen, layers_to_transform=[0], layers_pattern="layers") == [
        "layers.0.query", "layers.0.value",
    ]  # fmt: skip
    assert paths(model, **chosen, exclude_modules=["0.value"]) == [
        "layers.0.query", "layers.1.query", "layers.1.value",
    ]  # fmt: skip
    assert paths(model, **chosen, exclude_modules=r".*\.value") == [
        "layers.0.query", "layers.1.query",
    ]  # fmt: skip
    config = LoraConfig(
        **chosen, r=4, lora_alpha=8, rank_pattern={r"1\.query": 2}, alpha_pattern={"value": 12}
    )
    add_adapter(model, config)
    ranks = {p: a.shape[0] for p, a in tree_flatten(model.parameters()) if "lora_A" in p}
    assert list(ranks.values()) == [4, 4, 2, 4]
    assert [config.scale_of(p) for p in ("layers.0.query", "layers.1.query", "layers.0.value")] == [
        2, 4, 3,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "target_modules is not set; name the modules to adapt, such as 'query', 'value', "
             "'dense', 'output', 'classifier', or 'all-linear'"),
        ({"target_modules": ["query", "valve"]},
         "target_modules has 'valve', which is no module; did you mean 'value'?"),
        ({"target_modules": "q.*"},
         "target_modules='q.*' matches no module; the model has 'query', 'value', 'dense', "
         "'output', 'classifier'"),
        ({"target_modules": ["query"], "exclude_modules": ["vlaue"]},
         "exclude_modules has 'vlaue', which is no module; did you mean 'value'?"),
        ({"target_modules": ["query"], "exclude_modules": ["query"]},
         "exclude_modules=['query'] leaves no module to adapt"),
        ({"target_modules": ["query"], "modules_to_save": ["clasifier"]},
         "modules_to_save has 'clasifier', which is no module; did you mean 'classifier'?"),
        ({"target_modules": ["query"], "rank_pattern": {"value": 2}},
         "rank_pattern has 'value', which matches no adapted module; valid: query"),
        ({"target_modules": ["query"], "layers_to_transform": [1, 2]},
         "layers_to_transform has [2], where no module is adapted"),
        ({"target_modules": ["query"], "layers_to_transform": [7]},
         "no module of layers_to_transform=[7] with layers_pattern=None matches "
         "target_modules=['query']"),
        ({"target_modules": ["norm"]},
         "layers.0.norm (ends with 'norm') is of type LayerNorm; adapters are made for linear "
         "layers, embeddings, Conv1d and Conv2d"),
    ],
)  # fmt: skip
def test_what_matches_nothing_is_an_error_that_names_what_is_near(make, options, message):
    model = make()
    with pytest.raises(ValueError, match=r"[a-z]") as caught:
        add_adapter(model, LoraConfig(**options))
    assert str(caught.value) == message
    assert not adapter_configs(model)
    assert tree_flatten(model.trainable_parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be at least 1, got 0"),
        ({"lora_dropout": 1.0}, "lora_dropout must be in [0, 1), got 1.0"),
        ({"bias": "some"}, "bias must be 'none', 'all' or 'lora_only', got 'some'"),
        ({"init_lora_weights": "pisa"}, "init_lora_weights must be True, False, 'pissa_niter_N' or "
         "one of 'gaussian', 'pissa', 'olora', 'loftq', 'eva', got 'pisa'"),
        ({"loftq_config": {"loftq_bit": 4}},
         "loftq_config has no 'loftq_bit'; did you mean 'loftq_bits'?"),
        ({"target_modules": "(query"},
         "'(query' is not a regular expression: missing ), unterminated subpattern at position 0"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=r"[a-z]") as caught:
        LoraConfig(**options)
    assert str(caught.value) == message


def test_modules_to_save_is_a_list_and_arguments_are_named():
    with pytest.raises(TypeError, match="must be a list of names, got the string 'classifier'"):
        LoraConfig(modules_to_save="classifier")
    with pytest.raises(TypeError):
        LoraConfig(8, 16)


def test_a_task_adds_its_head(make):
    model = make()
    add_adapter(model, LoraConfig(target_modules=["query"], task_type="SEQ_CLS"))
    assert {p for p, _ in tree_flatten(model.trainable_parameters()) if "adapters" not in p} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip


def test_linear_layers_of_other_packages_are_found_by_their_name_and_weights(make, ids):
    class Linear(nn.Module):  # as in decoders that store float32 and compute in bfloat16
        def __init__(self):
            super().__init__()
            self.weight = mx.eye(16)

        def __call__(self, x: mx.array) -> mx.array:
            return x @ self.weight.astype(x.dtype).T

    model = make()
    model.layers[0].query = Linear()
    before = model(ids)
    add_adapter(model, LoraConfig(target_modules="all-linear", use_dora=True))
    assert "layers.0.query.adapters.default.lora_A.weight" in dict(
        tree_flatten(model.trainable_parameters())
    )
    assert mx.allclose(model(ids), before, atol=1e-5)


def test_grouped_convolutions_and_ia3_of_embeddings_are_refused(make):
    model = make()
    model.conv = nn.Conv1d(16, 16, 3, groups=2)
    with pytest.raises(ValueError, match="conv is a convolution of 2 groups; only one"):
        add_adapter(model, LoraConfig(target_modules=["conv"]))
    with pytest.raises(ValueError, match="of type Embedding; adapters are made for linear layers"):
        add_adapter(model, Ia3Config(target_modules=["embedding"]))


def test_explain_says_what_is_adapted_and_why(make):
    model = make()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"],
                        layers_to_transform=[1], modules_to_save=["classifier"])  # fmt: skip
    add_adapter(model, config)
    assert explain(model) == (
        "default: LoRA r 4, scale 2; 256 parameters\n"
        "     1 x layers.*.query 16x16: ends with 'query'\n"
        "     1 x layers.*.value 16x16: ends with 'value'\n"
        "     classifier: trained whole; 51 parameters\n"
        "not adapted:\n"
        "     1 x embedding 24x16\n"
        "     1 x conv 16x3x16\n"
        "     1 x conv2d 16x3x3x1\n"
        "     1 x layers.*.query 16x16\n"
        "     1 x layers.*.value 16x16\n"
        "     2 x layers.*.dense 32x16\n"
        "     2 x layers.*.output 16x32\n"
        "trained: 307 of 4,899 parameters (6.27%)"
    )


def test_a_quantized_module_is_not_trained_whole(make):
    model = make(size=64)
    nn.quantize(model, group_size=32)
    config = LoraConfig(target_modules=["query"], modules_to_save=["classifier"])
    with pytest.raises(ValueError, match="classifier is to be trained whole, but it is quantized"):
        add_adapter(model, config)
