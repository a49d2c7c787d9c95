import json
import logging
import os
import shutil

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_encoders import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    NeoBertConfig,
    build_model,
    load_model,
    save,
    train_tokenizer,
)
from mlx_encoders.cli import cli
from mlx_encoders.folders import task_class
from mlx_encoders.presets import count_parameters
from mlx_encoders.quantization import dequantize, quantization_config, quantize

SIZES = {"vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = [
    BertConfig(**SIZES, intermediate_size=128, max_position_embeddings=32),
    ModernBertConfig(**SIZES, intermediate_size=64, local_attention=8, pad_token_id=0),
    NeoBertConfig(**SIZES, intermediate_size=96),
]
IDS = np.random.default_rng(0).integers(5, 60, (2, 12)).astype(np.int32)
VALID = np.arange(12) < np.array([[12], [7]])
# Quantized products round in another order than float ones.
TOLERANCE = 1e-5

configs = pytest.mark.parametrize("config", CONFIGS, ids=["bert", "modernbert", "neobert"])


def difference(one, other, valid=None) -> float:
    apart = mx.abs(one.astype(mx.float32) - other.astype(mx.float32))
    return float((apart if valid is None else mx.where(mx.array(valid)[..., None], apart, 0)).max())


@pytest.mark.parametrize(
    "name", ["bert-affine4", "bert-mxfp4", "modernbert-affine8", "modernbert-mlm-affine4"]
)
def test_folders_of_mlx_embeddings_load_with_its_outputs(fixtures, name):
    folder = fixtures / "quantized" / name
    expected = mx.load(str(folder / "expected.safetensors"))
    valid = expected["attention_mask"]
    model, report = load_model(folder, model_class=task_class(folder))
    stored = json.loads((folder / "config.json").read_text())["quantization"]
    assert quantization_config(model) == stored
    assert not report.missing
    assert not report.unexpected
    model.set_dtype(mx.float32)
    hidden = model.encoder_model(expected["input_ids"], valid)
    assert difference(hidden, expected["hidden"], valid) < TOLERANCE
    # In mxfp4 the sum of the embeddings is rounded to bfloat16; dequantized, it is not.
    tolerance = 0.05 if stored["mode"] == "mxfp4" else TOLERANCE
    hidden = dequantize(model).encoder_model(expected["input_ids"], valid)
    assert difference(hidden, expected["hidden"], valid) < tolerance


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bits": 8, "group_size": 32},
        {"mode": "mxfp4"},
        {"mode": "mxfp8"},
        {"mode": "nvfp4"},
        {"bits": 3, "skip": ("embeddings|^encoder$",)},
        {"per_layer": {r"\.0\.": {"bits": 8}, r"\.1\.": False}},
        {"per_layer": {r"\.0\.": {"mode": "mxfp8"}}},
    ],
    ids=str,
)
@configs
def test_save_then_load_restores_a_quantized_model(config, options, tmp_path):
    model = quantize(build_model(config), **options)
    save(tmp_path, model)
    restored, report = load_model(tmp_path)
    assert not report.missing
    assert quantization_config(restored) == quantization_config(model)
    one, other = dict(tree_flatten(model.parameters())), dict(tree_flatten(restored.parameters()))
    assert one.keys() == other.keys()
    assert all(mx.array_equal(one[path], other[path]) for path in one)
    assert mx.array_equal(restored(IDS, VALID), model(IDS, VALID))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    group_size=st.sampled_from([32, 64]),
    rows=st.integers(1, 9),
)
def test_weights_are_off_by_at_most_half_a_step(bits, group_size, rows):
    model = nn.Sequential(nn.Linear(64, rows))
    weight = model.layers[0].weight.reshape(-1, group_size)
    step = (weight.max(axis=-1) - weight.min(axis=-1)) / (2**bits - 1)
    found = dequantize(quantize(model, bits, group_size)).layers[0].weight.reshape(-1, group_size)
    # MLX moves the grid so that it has a zero, which costs up to another half step.
    assert bool((mx.abs(found - weight) <= 1.01 * step[:, None] + 1e-7).all())


@configs
def test_eight_bits_are_nearer_to_the_float_model_than_four(config):
    expected = build_model(config)(IDS, VALID)
    errors = [
        difference(quantize(build_model(config), bits)(IDS, VALID), expected, VALID)
        for bits in (8, 4, 2)
    ]
    assert 0 < errors[0] < errors[1] / 4
    assert errors[1] < errors[2]


@configs
def test_dequantize_restores_float_layers_with_equal_outputs(config):
    model = quantize(build_model(config), 4)
    expected = model(IDS, VALID)
    stored = len(tree_flatten(model.parameters()))
    assert dequantize(model) is model
    assert quantization_config(model) is None
    assert len(tree_flatten(model.parameters())) < stored
    assert difference(model(IDS, VALID), expected) < TOLERANCE


def test_the_config_names_layers_with_other_settings():
    model = build_model(CONFIGS[0], model_class=BertForSequenceClassification)
    query = r"encoder\.layer\.0\.attention\.self\.query"
    quantize(model, per_layer={query: {"bits": 8}, "position": False})
    assert quantization_config(model) == {
        "group_size": 64,
        "bits": 4,
        "mode": "affine",
        "bert.encoder.layer.0.attention.self.query": {
            "group_size": 64,
            "bits": 8,
            "mode": "affine",
        },
        "bert.embeddings.position_embeddings": False,
        "classifier": False,
    }
    assert isinstance(model.classifier, nn.Linear)
    whole = quantize(
        build_model(CONFIGS[0], model_class=BertForSequenceClassification),
        per_layer={"classifier": True},
    )
    assert quantization_config(whole) == {"group_size": 64, "bits": 4, "mode": "affine"}
    assert quantization_config(build_model(CONFIGS[0])) is None


def test_modernbert_names_layers_as_mlx_embeddings_does_too(tmp_path):
    model = quantize(build_model(CONFIGS[1]), per_layer={r"0\.attn\.Wo": {"bits": 8}})
    save(tmp_path, model)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["quantization"] == stored["quantization_config"]
    assert stored["quantization"]["model.layers.0.attn.Wo"]["bits"] == 8
    assert stored["quantization"]["layers.0.attn.Wo"]["bits"] == 8


@pytest.mark.parametrize("model_class", [BertForMaskedLM, ModernBertForMaskedLM])
def test_masked_lm_uses_quantized_tied_embeddings(model_class, tmp_path):
    config = CONFIGS[0] if model_class is BertForMaskedLM else CONFIGS[1]
    model = quantize(build_model(config, model_class=model_class), 8)
    save(tmp_path, model)
    restored = model_class.from_pretrained(tmp_path)
    assert mx.array_equal(restored(IDS, VALID), model(IDS, VALID))
    assert difference(dequantize(restored)(IDS, VALID), model(IDS, VALID)) < TOLERANCE


def test_a_new_head_on_a_quantized_encoder(tmp_path):
    model = build_model(CONFIGS[0], model_class=BertForSequenceClassification)
    quantize(model, skip=())
    save(tmp_path, model)
    assert isinstance(model.classifier, nn.QuantizedLinear)
    restored = BertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, new=("classifier",)
    )
    assert isinstance(restored.classifier, nn.Linear)
    assert restored(IDS, VALID).shape == (2, 5)
    assert difference(restored.bert(IDS, VALID), model.bert(IDS, VALID)) == 0


def test_gradients_flow_through_quantized_layers_to_float_ones():
    model = build_model(CONFIGS[0], model_class=BertForSequenceClassification)
    quantize(model, 8)

    def loss(model):
        return model(IDS, VALID).square().sum()

    _, found = nn.value_and_grad(model, loss)(model)
    dequantize(model)
    _, expected = nn.value_and_grad(model, loss)(model)
    found, expected = dict(tree_flatten(found)), dict(tree_flatten(expected))
    assert "classifier.weight" in found
    assert "bert.encoder.layer.0.output.LayerNorm.weight" in found
    assert not any(path.endswith((".scales", ".biases")) for path in found)
    for path, gradient in found.items():
        assert difference(gradient, expected[path]) < 1e-4 * (1 + float(mx.abs(gradient).max()))


def test_rows_that_are_no_whole_groups_are_left_and_named(caplog):
    config = BertConfig(
        vocab_size=30, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=96,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        model = quantize(build_model(config))
    assert caplog.messages == [
        "1 layers are not quantized, as their rows are no multiple of the group size: "
        "encoder.layer.0.output.dense (64, 96)"
    ]
    assert quantization_config(model)["encoder.layer.0.output.dense"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mxpf4"}, "unknown quantization mode 'mxpf4'; did you mean 'mxfp4'?"),
        ({"per_layer": {"querry": False}}, "per_layer has 'querry', which matches no layer of"),
        ({"per_layer": {"query": {"bit": 8}}}, "unknown quantization setting 'bit'; did you mean"),
        ({"bits": 7}, f"MLX {mx.__version__} cannot quantize with mode='affine', bits=7, group_"),
        ({"mode": "mxfp4", "bits": 8}, "cannot quantize with mode='mxfp4', bits=8, group_size=32"),
        ({"skip": ("",)}, "no layer was quantized: all are skipped, or smaller than a group"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        quantize(build_model(CONFIGS[0]), **options)
    assert message in str(error.value)


def test_a_model_is_quantized_once():
    model = quantize(build_model(CONFIGS[0]))
    with pytest.raises(ValueError, match="quantized already; dequantize it first"):
        quantize(model)
    with pytest.raises(ValueError, match="the model has no quantized layer"):
        dequantize(build_model(CONFIGS[0]))
    with pytest.raises(TypeError, match="skip must be a sequence of expressions, got the string"):
        quantize(build_model(CONFIGS[0]), skip="classifier")


def test_folders_of_other_methods_are_refused(fixtures, tmp_path):
    shutil.copytree(fixtures / "bert", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="quant_method='gptq', which this package does not read"):
        load_model(tmp_path)


def test_an_unknown_form_is_refused(tmp_path):
    model = quantize(build_model(CONFIGS[0]), 8, 64)
    save(tmp_path, model)
    path = str(tmp_path / "model.safetensors")
    tensors = mx.load(path)
    mx.eval(tensors)
    mx.save_safetensors(path, {k: v for k, v in tensors.items() if not k.endswith(".biases")})
    with pytest.raises(ValueError, match="not know: 8 bits in groups of 64 without biases"):
        load_model(tmp_path)


def test_the_command_writes_a_smaller_folder_and_the_other_files(tmp_path):
    tokenizer = train_tokenizer(["the cat sat on the mat"], vocab_size=120)
    config = BertConfig(**{**SIZES, "vocab_size": 130}, intermediate_size=64)
    source, target = tmp_path / "float", tmp_path / "small"
    save(source, build_model(config, model_class=BertForSequenceClassification), tokenizer)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat\n\nthe mat sat\n")
    arguments = ["quantize", "--model", str(source), "--output", str(target), "--json"]
    extra = ["--bits", "8", "--layer", r"0\..*query=4", "--check", str(texts)]
    result = CliRunner().invoke(cli, arguments + extra)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["left"] == ["classifier"]
    assert report["texts"] == 2
    assert 0.9 < report["cosine_min"] <= report["cosine_mean"] < 1
    assert report["bytes_after"] < report["bytes_before"] / 3
    assert (target / "1_Pooling" / "config.json").is_file()
    assert (target / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    model = BertForSequenceClassification.from_pretrained(target)
    assert model.bert.encoder.layer[0].attention.self.query.bits == 4
    assert count_parameters(model) == count_parameters(config, BertForSequenceClassification)

    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 2
    assert "is not empty; name another folder" in again.stderr
    info = CliRunner().invoke(cli, ["info", "--model", str(target), "--json"])
    facts = json.loads(info.stdout)
    assert facts["class"] == "BertForSequenceClassification"
    assert facts["quantization"] == "affine, 8 bits in groups of 64"
    assert facts["parameters"] == count_parameters(model)
    assert facts["bytes"] == report["bytes_after"]


def test_the_command_names_the_form_of_its_option(tmp_path):
    result = CliRunner().invoke(
        cli, ["quantize", "--model", "x", "--output", str(tmp_path / "o"), "--layer", "query"]
    )
    assert result.exit_code == 2
    assert "--layer takes EXPRESSION=BITS, such as 'query$=8'; got 'query'" in result.stderr


@pytest.mark.skipif(
    "MLX_ENCODERS_MINILM" not in os.environ, reason="MLX_ENCODERS_MINILM names no MiniLM folder"
)
@pytest.mark.parametrize(("bits", "lowest"), [(8, 0.999), (4, 0.9)])
def test_minilm_keeps_its_embeddings(bits, lowest):
    folder = os.environ["MLX_ENCODERS_MINILM"]
    ids = np.random.default_rng(0).integers(2000, 20000, (4, 12))
    model = BertModel.from_pretrained(folder)
    before = model(ids).mean(axis=1)
    after = quantize(model, bits)(ids).mean(axis=1)
    norms = mx.linalg.norm(before, axis=-1) * mx.linalg.norm(after, axis=-1)
    assert float(((before * after).sum(axis=-1) / norms).min()) > lowest
