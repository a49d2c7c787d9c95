"""ONNX files in onnxruntime, beside MLX and, through the fixtures, beside transformers.

Tolerance 1e-5: float32 on both sides, other orders of summation, outputs of order 1.
"""

import json
import re
import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime", reason="needs mlx-encoders[onnx]")

from mlx_encoders import BertModel, build_model, load_model, prune_heads, train_tokenizer
from mlx_encoders.export import export_onnx
from mlx_encoders.export.verify import onnx_runner
from mlx_encoders.tasks import TASK_CLASSES

TOLERANCE = 1e-5
TEXTS = ["the first small text", "second", "a third one, longer than the others are", "4"] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, kind="wordpiece", vocab_size=120)


def as_ints(batch):
    return {name: np.array(array).astype(np.int64) for name, array in batch.items()}


def task_model(name, **changes):
    """Build a small model of the task class `name`."""
    chosen = TASK_CLASSES[name]
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    config = chosen.config_class(**{"vocab_size": 120, "num_labels": 3, **sizes, **changes})
    return build_model(config, model_class=chosen)


def classes(task):
    return sorted(name for name in TASK_CLASSES if task in name)


def test_fewer_heads_are_exported_with_their_size(tiny_config, tmp_path):
    model = prune_heads(build_model(tiny_config), 1)
    assert export_onnx(model, tmp_path).max_difference < TOLERANCE


@pytest.mark.parametrize(
    "name", ["bert/no_mask", "bert/right_padding", "bert/left_padding", "modernbert/right_padding",
             "modernbert/left_padding"],
)  # fmt: skip
@pytest.mark.parametrize("opset", [17, 20])
def test_hidden_states_equal_those_of_transformers(name, opset, fixtures, read_case, tmp_path):
    case = read_case(fixtures / f"{name}.safetensors")
    model, _ = load_model(fixtures / name.split("/")[0])
    report = export_onnx(model, tmp_path, opset=opset)
    ids = case["input_ids"]
    batch = {"input_ids": ids, "attention_mask": case.get("attention_mask", mx.ones_like(ids))}
    if isinstance(model, BertModel):
        batch["token_type_ids"] = case.get("token_type_ids", mx.zeros_like(ids))
    outputs = onnx_runner(report.path)(as_ints(batch))
    valid = np.array(batch["attention_mask"]).astype(bool)
    expected = np.array(case["hidden"] if "hidden" in case else last_hidden(case))
    assert np.abs(outputs["last_hidden_state"] - expected)[valid].max() < TOLERANCE
    if "pooled" in case:
        assert np.abs(outputs["pooler_output"] - np.array(case["pooled"])).max() < TOLERANCE


def last_hidden(case):
    states = [key for key in case if re.fullmatch(r"hidden\.\d+", key)]
    return case[max(states, key=lambda key: int(key.split(".")[1]))]


# The file is written once, which is what function-scoped fixtures are feared for not to be.
@given(st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_batch_length_and_mask_gives_the_outputs_of_mlx(exported, data):
    model, run = exported
    B, L = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 1000))
    generator = np.random.default_rng(seed)
    mask = generator.integers(0, 2, (B, L))  # holes and wholly padded rows too
    batch = {"input_ids": generator.integers(0, 30, (B, L)), "attention_mask": mask}
    if isinstance(model, BertModel):
        batch["token_type_ids"] = generator.integers(0, 2, (B, L))
    found = run(as_ints(batch))["last_hidden_state"]
    expected = np.array(model(**{name: mx.array(array) for name, array in batch.items()}))
    # Attention by blocks, of longer rows, is another one for windows without tokens: of padding.
    compared = mask.astype(bool) if L >= 16 else np.ones((B, L), bool)
    assert np.isfinite(found).all()
    assert np.abs(found - expected)[compared].max(initial=0.0) < TOLERANCE


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    return {}


@pytest.fixture
def exported(tiny_config, exports, tmp_path_factory):
    """A model of each family and a function that runs its file; written once."""
    key = type(tiny_config)
    if key not in exports:
        model = build_model(tiny_config, seed=3)
        report = export_onnx(model, tmp_path_factory.mktemp("onnx"))
        exports[key] = model, onnx_runner(report.path)
    return exports[key]


@pytest.mark.parametrize("name", classes(""))
def test_task_models_are_exported_or_refused(name, tmp_path):
    model = task_model(name)
    if "MultipleChoice" in name:
        with pytest.raises(ValueError, match=f"^{name} cannot be exported; "):
            export_onnx(model, tmp_path)
        return
    report = export_onnx(model, tmp_path)
    assert report.max_difference < TOLERANCE
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [name]


@pytest.mark.parametrize("name", classes("MaskedLM"))
def test_untied_decoders_are_exported(name, tmp_path):
    model = task_model(name, tie_word_embeddings=False)
    assert export_onnx(model, tmp_path).max_difference < TOLERANCE


@pytest.mark.parametrize("name", classes("SequenceClassification"))
def test_probabilities_are_the_softmax_of_the_scaled_logits(name, ids, tmp_path):
    model = task_model(name)
    batch = as_ints({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    if name.startswith("Bert"):
        batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
    logits = onnx_runner(export_onnx(model, tmp_path / "logits").path)(batch)["logits"]
    report = export_onnx(model, tmp_path / "p", probabilities=True, temperature=2.5)
    found = onnx_runner(report.path)(batch)["logits"]
    powers = np.exp(logits / 2.5)
    assert np.abs(found - powers / powers.sum(axis=1, keepdims=True)).max() < 1e-6


@pytest.mark.parametrize("name", classes("SequenceClassification"))
def test_accuracy_is_measured_on_labelled_texts(name, tokenizer, tmp_path):
    model = task_model(name, vocab_size=tokenizer.vocab_size)
    batch = tokenizer.pad(tokenizer.encode(TEXTS))
    batch = {name: mx.array(array) for name, array in batch.items()}
    labels = np.array(model(**batch)).argmax(axis=1)
    labels[:5] = (labels[:5] + 1) % 3
    report = export_onnx(
        model, tmp_path, tokenizer=tokenizer, texts=TEXTS, labels=labels.tolist(), int8=True
    )
    assert report.accuracy == 0.75
    assert report.int8 is not None
    assert 0.5 < report.int8.accuracy <= 0.75 + 0.1
    assert (tmp_path / "tokenizer.json").is_file()


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
def test_embeddings_ignore_padding_and_have_length_one(pooling, tiny_config, ids, tmp_path):
    model = build_model(tiny_config)
    report = export_onnx(model, tmp_path / "a.onnx", pooling=pooling, normalize=True)
    run = onnx_runner(report.path)
    types = {"token_type_ids": np.zeros_like(ids)} if isinstance(model, BertModel) else {}
    rows = {"input_ids": ids, "attention_mask": np.ones_like(ids), **types}
    alone = run(as_ints(rows))["sentence_embedding"]
    padded = {name: np.pad(array, [(0, 1), (0, 6)]) for name, array in rows.items()}
    beside = run(as_ints(padded))["sentence_embedding"]
    assert np.abs(beside[:3] - alone).max() < TOLERANCE
    assert np.abs(np.linalg.norm(alone, axis=1) - 1).max() < TOLERANCE
    assert not beside[3].any()  # a row of padding
    assert not (tmp_path / "config.json").exists()


def test_quantized_weights_give_the_outputs_of_the_quantized_model(fixtures, read_case, tmp_path):
    model, _ = load_model(fixtures / "bert")
    # Not the layers of 48 inputs, which have no groups of 32.
    nn.quantize(
        model, 32, 4, class_predicate=lambda path, _: path.endswith(("query", "word_embeddings"))
    )
    case = read_case(fixtures / "bert/right_padding.safetensors")
    inputs = {key: case[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
    found = onnx_runner(export_onnx(model, tmp_path).path)(as_ints(inputs))
    expected = np.array(model(**inputs))
    assert np.abs(found["last_hidden_state"] - expected).max() < TOLERANCE


def test_bfloat16_weights_are_exported_as_float32(tiny_config, tmp_path):
    model = build_model(tiny_config)
    model.set_dtype(mx.bfloat16)
    model.train()
    assert export_onnx(model, tmp_path).max_difference < TOLERANCE
    assert model.training


def test_8_bit_weights_are_a_smaller_file_with_nearly_the_same_outputs(fixtures, tmp_path):
    model, _ = load_model(fixtures / "bert")
    report = export_onnx(model, tmp_path / "x.onnx", int8=True)
    assert report.int8 is not None
    assert report.int8.path == tmp_path / "x_int8.onnx"
    assert report.int8.size == report.int8.path.stat().st_size < report.size
    assert report.int8.cosine > 0.99
    assert 0 < report.int8.max_difference < 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.onnx", "x_int8.onnx"]
    import onnx

    # One scale for each output of a matrix, not one for all.
    weights = onnx.load(report.int8.path).graph.initializer
    scales = [each.dims for each in weights if each.name.endswith("_scale")]
    assert any(dims and dims[0] > 1 for dims in scales)


def test_external_data_moves_with_the_file(fixtures, tmp_path):
    model, _ = load_model(fixtures / "modernbert")
    report = export_onnx(model, tmp_path / "first", external_data=True, int8=True)
    names = ["model.onnx", "model.onnx.data", "model_int8.onnx", "model_int8.onnx.data"]
    assert sorted(path.name for path in report.path.parent.glob("*.onnx*")) == names
    moved = report.path.parent.rename(tmp_path / "second")
    for name in ("model.onnx", "model_int8.onnx"):
        assert (moved / f"{name}.data").stat().st_size > 20_000
        assert (moved / f"{name}.data").stat().st_mode == (moved / name).stat().st_mode
        onnx_runner(moved / name)
    assert report.size == sum((moved / name).stat().st_size for name in names[:2])


class Shifted(BertModel):
    """A model that does not compute what its class does."""

    def __call__(self, *arguments, **options):
        return super().__call__(*arguments, **options) + 2e-3


def test_a_file_that_differs_from_mlx_is_not_left(tmp_path, fixtures):
    config = load_model(fixtures / "bert")[0].config
    (tmp_path / "other.txt").write_text("kept")
    message = (
        r"^onnxruntime does not compute what MLX does, nothing was written: last_hidden_state "
        r"\(1, 1, 32\) differs by 0.002 from that of MLX$"
    )
    with pytest.raises(ValueError, match=message):
        export_onnx(Shifted(config), tmp_path, int8=True)
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 16}, r"opset must be one of (17, 18, 19, 20), got 16"),
        ({"pooling": "median"}, "pooling must be one of cls, mean, max, last; got 'median'"),
        ({"normalize": True}, "normalize is for embeddings: name a pooling too, such as 'mean'"),
        (
            {"temperature": 2.0},
            "probabilities and temperature are for classifiers; BertModel has none to compute",
        ),
        ({"texts": ["a"]}, "texts need a tokenizer"),
    ],
)
def test_wrong_options_are_refused(options, message, fixtures, tmp_path):
    model, _ = load_model(fixtures / "bert")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export_onnx(model, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_missing_onnx_names_the_extra(fixtures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model, _ = load_model(fixtures / "bert")
    message = "onnxruntime is not installed; install mlx-encoders[onnx] to write ONNX files"
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        export_onnx(model, tmp_path)
