"""Task models against transformers, and NeoBERT against an own derivation in PyTorch.

Through the fixtures of tools/make_fixtures_tasks.py. Tolerance 1e-5: see test_parity.py.
"""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_encoders import (
    TASK_CLASSES,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForMaskedLM,
    NeoBertConfig,
    NeoBertForMaskedLM,
    NeoBertForSequenceClassification,
    build_model,
    load_model,
    load_task_model,
)

TOLERANCE = 1e-5
CASES = [
    "BertForMaskedLM",
    "BertForMaskedLM-untied",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "ModernBertForMaskedLM",
    "ModernBertForMaskedLM-untied",
    "ModernBertForMaskedLM-unbiased",
    "ModernBertForSequenceClassification",
    "ModernBertForSequenceClassification-mean",
    "ModernBertForTokenClassification",
    "ModernBertForTokenClassification-silu",
    "ModernBertForQuestionAnswering",
    "ModernBertForMultipleChoice",
    "NeoBERTLMHead",
    "NeoBERTForSequenceClassification",
]


@pytest.fixture
def make_folder(fixtures, tmp_path):
    """Return the folder of a case: the shared encoder's tensors, with prefix, and its head's."""

    def make(name):
        family = "neobert" if name.startswith("Neo") else name.split("For")[0].lower()
        prefix = "bert." if family == "bert" else "model."
        encoder = mx.load(str(fixtures / family / "model.safetensors"))
        heads = ("decoder.",)
        tensors = {
            prefix + key.removeprefix(prefix): value
            for key, value in encoder.items()
            if not key.startswith(heads)
        }
        case = mx.load(str(fixtures / "tasks" / f"{name}.safetensors"))
        tensors |= {key[5:]: value for key, value in case.items() if key.startswith("head.")}
        folder = tmp_path / name
        folder.mkdir()
        mx.save_safetensors(str(folder / "model.safetensors"), tensors)
        shutil.copy(fixtures / "tasks" / f"{name}.json", folder / "config.json")
        return folder, case

    return make


def run(model, case, padding):
    """Return the logits; (..., 2) of start and end for question answering."""
    names = ("input_ids", "attention_mask")
    logits = model(*(case[f"{padding}.{name}"] for name in names))
    return mx.stack(logits, axis=-1) if isinstance(logits, tuple) else logits


def test_every_task_class_has_a_case():
    named = {name.split("-")[0] for name in CASES}
    assert named == set(TASK_CLASSES)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_equal_the_reference(name, make_folder):
    folder, case = make_folder(name)
    model, report = load_task_model(folder)
    assert report.missing == report.unexpected == ()
    of_tokens = "choice" not in name.lower() and case["right.logits"].ndim == 3
    for padding in ("right", "left"):
        if padding == "left" and name == "ModernBertForSequenceClassification":
            continue  # transformers classifies the hidden state of padding here
        difference = np.abs(np.array(run(model, case, padding) - case[f"{padding}.logits"]))
        if of_tokens:
            difference = difference[np.array(case[f"{padding}.attention_mask"]).astype(bool)]
        assert difference.max() < TOLERANCE, padding

    def loss(parameters):
        model.update(parameters)
        return (run(model, case, "right") * case["right.cotangent"]).sum()

    found = dict(tree_flatten(mx.grad(loss)(model.trainable_parameters())))
    expected = {key[9:]: value for key, value in case.items() if key.startswith("gradient.")}
    compared = expected.keys() & found.keys()
    # Of a tied model transformers has one tensor under two names.
    assert {key.rpartition(".")[0] for key in expected.keys() - compared} <= {
        "cls.predictions",
        "cls.predictions.decoder",
    }
    assert len(compared) >= 4
    for path in compared:
        scale = max(1.0, float(mx.abs(expected[path]).max()))
        difference = np.abs(np.array(found[path] - expected[path])).max()
        assert difference < TOLERANCE * scale, path


@pytest.mark.parametrize("name", CASES)
def test_a_saved_task_model_loads_with_equal_logits(name, make_folder, tmp_path):
    folder, case = make_folder(name)
    model, _ = load_task_model(folder)
    model.save_pretrained(tmp_path / "saved")
    again, report = load_task_model(tmp_path / "saved")
    assert type(again) is type(model)
    assert again.config == model.config
    assert report.missing == report.unexpected == report.dropped == ()
    assert mx.array_equal(run(again, case, "right"), run(model, case, "right"))
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert written["architectures"] == [name.split("-")[0]]


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_hidden_states_and_gradients_of_neobert_equal_the_derivation(fixtures, read_case, padding):
    case = read_case(fixtures / "neobert" / f"{padding}_padding.safetensors")
    model, report = load_model(fixtures / "neobert")
    assert set(report.dropped) == {"decoder.bias", "decoder.weight"}
    mask = case.get("attention_mask")
    valid = np.ones(case["input_ids"].shape, bool) if mask is None else np.array(mask).astype(bool)
    states = model.hidden_states(case["input_ids"], mask)
    assert len(states) == 3
    for index, state in enumerate(states):
        difference = np.abs(np.array(state - case[f"hidden.{index}"]))[valid]
        assert difference.max() < TOLERANCE, index
    if padding != "left":
        return

    def loss(parameters):
        model.update(parameters)
        return (model(case["input_ids"], mask) * case["cotangent"]).sum()

    found = dict(tree_flatten(mx.grad(loss)(model.trainable_parameters())))
    expected = {key[9:]: value for key, value in case.items() if key.startswith("gradient.")}
    assert found.keys() == expected.keys()
    for path, value in found.items():
        scale = max(1.0, float(mx.abs(expected[path]).max()))
        assert np.abs(np.array(value - expected[path])).max() < TOLERANCE * scale, path


def test_packed_masked_lm_logits_equal_those_of_all_positions(make_folder):
    folder, case = make_folder("BertForMaskedLM")
    model, _ = load_task_model(folder)
    ids = case["right.input_ids"]
    hidden = model.bert(ids)
    chosen = hidden[mx.array([0, 2]), mx.array([3, 1])]  # (2, D)
    expected = model(ids)[mx.array([0, 2]), mx.array([3, 1])]
    assert np.abs(np.array(model.logits(chosen) - expected)).max() < TOLERANCE


def test_a_missing_head_is_an_error_unless_it_is_new(fixtures):
    folder = fixtures / "bert"
    with pytest.raises(
        ValueError, match=r"2 missing tensors in .*: classifier\.weight, classifier"
    ):
        BertForSequenceClassification.from_pretrained(folder)
    model = BertForSequenceClassification.from_pretrained(
        folder, new=("classifier",), num_labels=4, seed=1
    )
    assert model.classifier.weight.shape == (4, 32)
    assert not model.training
    assert float(mx.abs(model.classifier.weight).max()) < 0.1  # normal, of spread 0.02
    encoder, _ = load_model(fixtures / "bert")
    ids = mx.array([[5, 6, 7]])
    assert mx.array_equal(model.bert(ids), encoder(ids))


def test_a_tied_copy_with_other_values_is_an_error(make_folder):
    folder, _ = make_folder("BertForMaskedLM-untied")
    values = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"cls\.predictions\.decoder\.weight differs from embedd"):
        load_task_model(folder)
    model, _ = load_task_model(folder, tie_word_embeddings=False)
    assert "decoder" in model.cls.predictions


def test_word_embeddings_of_a_task_model_are_those_of_its_encoder(make_folder):
    folder, case = make_folder("BertForSequenceClassification")
    model, _ = load_task_model(folder)
    embeds = model.get_input_embeddings()(case["right.input_ids"])
    mask = case["right.attention_mask"]
    expected = model(case["right.input_ids"], mask)
    assert mx.array_equal(model(None, mask, inputs_embeds=embeds), expected)


def test_a_folder_of_a_plain_encoder_names_what_to_do(fixtures):
    with pytest.raises(ValueError, match=r"BertModel, which is not a task class.*model_class="):
        load_task_model(fixtures / "bert")


def test_wrong_arguments_are_refused(fixtures):
    with pytest.raises(
        TypeError, match=r"BertConfig has no field 'num_label'; did you mean 'num_labels'"
    ):
        load_model(fixtures / "bert", num_label=3)
    with pytest.raises(
        TypeError, match="ModernBertForMaskedLM needs a ModernBertConfig, got a Bert"
    ):
        load_model(fixtures / "bert", model_class=ModernBertForMaskedLM)
    with pytest.raises(ValueError, match="num_labels is 3, but id2label names 2 labels"):
        BertConfig(num_labels=3, id2label={0: "a", 1: "b"})


def test_labels_are_stored_by_name(fixtures, tmp_path):
    names = {0: "World", 1: "Sports", 2: "Business"}
    model = BertForSequenceClassification.from_pretrained(
        fixtures / "bert", new=("classifier",), id2label=names
    )
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["id2label"] == {"0": "World", "1": "Sports", "2": "Business"}
    assert written["label2id"] == {"World": 0, "Sports": 1, "Business": 2}
    again, _ = load_task_model(tmp_path)
    assert again.config.id2label == names
    assert again.config.num_labels == 3


@pytest.mark.parametrize(
    ("model_class", "config", "count"),
    [
        (ModernBertForMaskedLM, ModernBertConfig(), 149_655_232),
        (
            ModernBertForMaskedLM,
            ModernBertConfig(
                hidden_size=1024,
                intermediate_size=2624,
                num_hidden_layers=28,
                num_attention_heads=16,
            ),
            395_881_664,
        ),
        (NeoBertForMaskedLM, NeoBertConfig(), 245_136_954),
        (BertForMaskedLM, BertConfig(), 109_514_298),
    ],
)
def test_parameter_counts_are_exact(model_class, config, count):
    model = model_class(config)  # lazy: no memory is used
    assert sum(array.size for _, array in tree_flatten(model.parameters())) == count


def test_the_heads_of_neobert_start_uniform():
    config = NeoBertConfig(60, 32, 48, 1, 2)
    model = build_model(config, model_class=NeoBertForSequenceClassification)
    weights = np.array(model.model.transformer_encoder[0].qkv.weight)
    assert np.abs(weights).max() < 0.02 < np.abs(weights).max() * 1.05
    assert abs(weights.std() - 0.02 / 3**0.5) < 1e-3
