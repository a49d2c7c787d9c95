import json
import re
import shutil
from pathlib import Path

import huggingface_hub.constants
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_encoders import (
    BertConfig,
    BertModel,
    LoadReport,
    ModernBertConfig,
    build_model,
    load,
    load_config,
    load_model,
    save,
    train_tokenizer,
)

POOLER = ("pooler.dense.weight", "pooler.dense.bias")


@pytest.fixture
def folder(fixtures, tmp_path) -> Path:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(fixtures / "bert" / name, tmp_path)
    return tmp_path


@pytest.fixture
def rewrite(folder):
    """Change the tensors of `folder` by a function of the dict of arrays."""

    def apply(change) -> None:
        path = folder / "model.safetensors"
        tensors = mx.load(str(path))
        mx.eval(tensors)
        mx.save_safetensors(str(path), change(tensors))

    return apply


def weights(model) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def assert_same_weights(one, other) -> None:
    assert weights(one).keys() == weights(other).keys()
    for path, array in weights(one).items():
        assert array.dtype == weights(other)[path].dtype
        assert mx.array_equal(array, weights(other)[path]), path


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_save_then_load_restores_weights_and_config(tiny_config, dtype, tmp_path):
    model = build_model(tiny_config, seed=3)
    model.set_dtype(dtype)
    save(tmp_path, model)
    loaded, report = load_model(tmp_path)
    assert_same_weights(model, loaded)
    assert loaded.config == tiny_config
    assert report == LoadReport()


def test_save_writes_a_folder_that_load_reads_with_its_tokenizer(tmp_path):
    texts = ["the fare was 7.25", "the fare was 80"] * 3
    tokenizer = train_tokenizer(texts, vocab_size=200)
    config = BertConfig(200, 16, 1, 2, 32, max_position_embeddings=32)
    model = build_model(config)
    save(tmp_path / "new" / "folder", model, tokenizer)
    loaded, loaded_tokenizer = load(tmp_path / "new" / "folder")
    assert_same_weights(model, loaded)
    assert loaded_tokenizer.encode(texts) == tokenizer.encode(texts)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_load_converts_to_the_given_dtype(folder):
    model, _ = load_model(folder, dtype=mx.bfloat16)
    assert {array.dtype for array in weights(model).values()} == {mx.bfloat16}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"bert.{name}",
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma"),
        lambda name: "bert." + name.replace("LayerNorm.bias", "LayerNorm.beta"),
    ],
)
def test_names_of_older_and_of_task_checkpoints_load(fixtures, folder, rewrite, rename):
    rewrite(lambda tensors: {rename(name): array for name, array in tensors.items()})
    model, report = load_model(folder)
    assert_same_weights(model, load_model(fixtures / "bert")[0])
    assert report == LoadReport()


def test_sharded_weights_load(fixtures, folder):
    path = folder / "model.safetensors"
    tensors = mx.load(str(path))
    mx.eval(tensors)
    path.unlink()
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[:9],
        "model-00002-of-00002.safetensors": names[9:],
    }
    for file, part in shards.items():
        mx.save_safetensors(str(folder / file), {name: tensors[name] for name in part})
    weight_map = {name: file for file, part in shards.items() for name in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_same_weights(load_model(folder)[0], load_model(fixtures / "bert")[0])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has no model-00002-of-00002.safetensors; pickled"
    ):
        load_model(folder)


def test_task_heads_and_stored_buffers_are_dropped_and_listed(folder, rewrite):
    extra = {
        "classifier.weight": mx.zeros((2, 32)),
        "cls.predictions.bias": mx.zeros(50),
        "bert.embeddings.position_ids": mx.arange(24)[None],
    }
    rewrite(lambda tensors: tensors | extra)
    _, report = load_model(folder)
    assert set(report.dropped) == {
        "classifier.weight",
        "cls.predictions.bias",
        "embeddings.position_ids",
    }
    assert report.missing == report.unexpected == ()


def test_a_checkpoint_without_pooler_gives_a_model_without_and_reports_it(folder, rewrite):
    rewrite(lambda tensors: {k: v for k, v in tensors.items() if k not in POOLER})
    model, report = load_model(folder)
    assert report == LoadReport(missing=POOLER)
    assert not set(POOLER) & weights(model).keys()
    with pytest.raises(ValueError, match=r"this BERT has no pooler .*load with new="):
        model.pooled(model(np.ones((1, 4), int)))
    save(folder, model)
    assert load_config(folder).add_pooling_layer is False


def test_a_pooler_named_as_new_gets_fresh_weights(folder, rewrite):
    rewrite(lambda tensors: {k: v for k, v in tensors.items() if k not in POOLER})
    model, report = load_model(folder, new=("pooler",), seed=4)
    assert set(report.missing) == set(POOLER)
    fresh = build_model(model.config, seed=4)
    assert mx.array_equal(model.pooler.dense.weight, fresh.pooler.dense.weight)


def test_an_unwanted_pooler_is_dropped_and_listed(folder):
    config = json.loads((folder / "config.json").read_text()) | {"add_pooling_layer": False}
    (folder / "config.json").write_text(json.dumps(config))
    _, report = load_model(folder)
    assert set(report.dropped) == set(POOLER)
    assert report.missing == ()


def test_missing_tensors_are_refused_with_their_names_unless_named(folder, rewrite):
    rewrite(lambda tensors: {k: v for k, v in tensors.items() if ".query." not in k})
    with pytest.raises(ValueError, match="4 missing tensors") as error:
        load_model(folder)
    assert str(error.value) == (
        f"4 missing tensors in {folder}: encoder.layer.0.attention.self.query.weight, "
        "encoder.layer.0.attention.self.query.bias, encoder.layer.1.attention.self.query.weight, "
        "encoder.layer.1.attention.self.query.bias; name prefixes in `new` to accept that"
    )
    _, report = load_model(folder, new=("encoder.layer.0.", "encoder.layer.1."))
    assert len(report.missing) == 4


def test_a_long_list_of_missing_tensors_is_cut_but_counted(folder, rewrite):
    rewrite(lambda tensors: {k: v for k, v in tensors.items() if "encoder" not in k})
    with pytest.raises(ValueError, match=r"^32 missing tensors .*, \.\.\.; name prefixes"):
        load_model(folder)


def test_unexpected_tensors_are_refused_with_their_names_unless_named(folder, rewrite):
    rewrite(lambda tensors: tensors | {"encoder.relative.weight": mx.zeros(3)})
    with pytest.raises(ValueError, match=r"1 unexpected tensors in .*: encoder\.relative\.weight;"):
        load_model(folder)
    _, report = load_model(folder, new=("encoder.relative",))
    assert report == LoadReport(unexpected=("encoder.relative.weight",))


def test_mis_shaped_tensors_are_refused_with_both_shapes_unless_named(folder, rewrite):
    name = "embeddings.word_embeddings.weight"
    rewrite(lambda tensors: tensors | {name: mx.zeros((60, 32))})
    with pytest.raises(ValueError, match=rf"1 mis-shaped .*{name} \(60, 32\), expected \(50, 32\)"):
        load_model(folder)
    model, report = load_model(folder, new=(name,))
    assert report == LoadReport(missing=(name,), dropped=(name,))
    assert weights(model)[name].shape == (50, 32)


def test_dropout_of_the_config_can_be_replaced(folder, fixtures):
    model, _ = load_model(folder, dropout=0.3, attention_dropout=0.0)
    assert model.config.hidden_dropout_prob == 0.3
    assert model.config.attention_probs_dropout_prob == 0.0
    model, _ = load_model(fixtures / "modernbert", dropout=0.3, attention_dropout=0.2)
    assert model.config.mlp_dropout == model.config.embedding_dropout == 0.3
    assert model.config.attention_dropout == 0.2


def test_one_string_as_new_is_refused(folder):
    with pytest.raises(TypeError, match="new must be a sequence of prefixes, got the string"):
        load_model(folder, new="pooler")


def test_a_tokenizer_larger_than_the_model_is_refused(folder):
    train_tokenizer(["some text"], vocab_size=300).save(folder)
    with pytest.raises(ValueError, match=r"has .* tokens, but the model has embeddings for 50"):
        load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
    ],
)
def test_an_unsupported_bert_config_is_refused_with_key_and_value(key, value):
    with pytest.raises(
        ValueError, match=rf"config has {key}={value!r}, which this package does not"
    ):
        BertConfig.from_dict({key: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_scaling": {"factor": 2}}, "config has rope_scaling="),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type='yarn'"),
        ({"layer_types": ["full_attention"]}, "layer_types must name"),
        ({"hidden_activation": "gelu2"}, "unknown activation 'gelu2'; did you mean 'gelu'"),
        ({"hidden_size": 100}, "hidden_size must be a multiple of num_attention_heads, got 100"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1, got 0"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers must be at least 1, got 0"),
    ],
)
def test_an_unsupported_modernbert_config_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ModernBertConfig.from_dict(values)


def test_both_formats_of_a_modernbert_config_are_equivalent():
    old = {
        "num_hidden_layers": 5,
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 80000.0,
        "local_rope_theta": 500.0,
    }
    new = {
        "num_hidden_layers": 5,
        "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 80000.0},
            "sliding_attention": {"rope_theta": 500.0},
        },
    }
    one, other = ModernBertConfig.from_dict(old), ModernBertConfig.from_dict(new)
    for name in ("layer_types", "global_rope_theta", "local_rope_theta"):
        assert getattr(one, name) == getattr(other, name)
    assert ModernBertConfig.from_dict(one.to_dict()) == one
    # The pattern of `other` is not that of its global_attn_every_n_layers (the default, 3).
    assert "global_attn_every_n_layers" not in other.to_dict()


def test_an_unknown_model_type_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "modernbart"}))
    with pytest.raises(ValueError, match="unknown model_type 'modernbart'; did you mean 'modernbe"):
        load_config(folder)


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", Path("nowhere")])
def test_a_missing_folder_is_named(name):
    with pytest.raises(FileNotFoundError, match=r"^no folder"):
        load_model(name)


def test_a_folder_without_weights_or_config_is_refused_with_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_config(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors; pickled weights"):
        load_model(tmp_path)


@pytest.fixture
def offline_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("offline_cache")
def test_an_unreachable_hub_id_gives_one_error():
    with pytest.raises(
        FileNotFoundError, match="'some-org/some-bert' is not a local folder, and no hub"
    ):
        load_model("some-org/some-bert")


def test_a_hub_id_is_read_from_the_local_cache_when_offline(offline_cache, fixtures):
    repository = offline_cache / "models--some-org--some-bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(fixtures / "bert", repository / "snapshots" / ("a" * 40))
    model, _ = load_model("some-org/some-bert")
    assert isinstance(model, BertModel)


@pytest.fixture
def whole_folder(tmp_path) -> Path:
    tokenizer = train_tokenizer(["some text"] * 9, vocab_size=150)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=tokenizer.vocab_size, num_hidden_layers=1, **sizes)
    save(tmp_path / "model", build_model(config), tokenizer)
    return tmp_path / "model"


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
     "special_tokens_map.json"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["empty", "begun", "cut", "binary"])
def test_a_damaged_file_is_one_line_with_its_path(whole_folder, name, damage):
    path = whole_folder / name
    data = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "begun": data[:9], "cut": data[:-20], "binary": b"\xff\xfe\x00" * 9}[damage]
    )
    with pytest.raises(ValueError, match="is damaged or truncated") as error:
        load(whole_folder)
    message = str(error.value)
    assert message.startswith(f"{path} is damaged or truncated (")
    assert message.endswith("); copy or download the file again")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "[1]",
         "{path} must be a JSON object, got list; copy or download the file again"),
        ("config.json", '{"model_type": "bert", "hidden_size": "x"}',
         "{path}: config has hidden_size='x', which must be of type int"),
        ("config.json", '{"model_type": "modernbert", "norm_eps": null}',
         "{path}: config has norm_eps=None, which must be of type float"),
        ("config.json", '{"model_type": "modernbert", "layer_types": 3}',
         "{path}: config has layer_types=3, which must be of type tuple[str, ...] | None"),
        ("config.json", '{"model_type": "bert", "num_attention_heads": 0}',
         "{path}: num_attention_heads must be at least 1, got 0"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}',
         "{path}: weight_map must name the file of each tensor; copy or download the file again"),
        ("tokenizer_config.json", '{"pad_token": null}',
         "{folder}: the tokenizer needs a padding token: pad_token is None, which is not in its "
         "vocabulary; set it in tokenizer_config.json"),
        ("vocab.txt", "a\nb",
         "{path}: the special token '[CLS]' is not in the vocabulary; copy or download it again"),
    ],
)  # fmt: skip
def test_a_file_with_invalid_content_is_named(whole_folder, name, text, message):
    if name == "vocab.txt":
        (whole_folder / "tokenizer.json").unlink()
        (whole_folder / "tokenizer_config.json").unlink()
        (whole_folder / "special_tokens_map.json").unlink()
    (whole_folder / name).write_text(text)
    message = message.format(path=whole_folder / name, folder=whole_folder)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(whole_folder)
