"""Against transformers 5.23, through the fixtures of tools/make_fixtures_encoders.py.

Tolerance 1e-5: both sides compute in float32, hidden states are of order 1, and the GELU used on
the CPU is within 4e-7 of the exact one. Gradients are compared relative to their largest entry.
"""

import json
import os
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_encoders import Tokenizer, load, load_model
from mlx_encoders.attention import Context

TOLERANCE = 1e-5

CASES = [
    "bert/no_mask",
    "bert/right_padding",
    "bert/left_padding",
    "modernbert/none_padding",
    "modernbert/right_padding",
    "modernbert/left_padding",
    "modernbert_old_dialect/right_padding",
]


@pytest.fixture
def model_folder(fixtures, tmp_path):
    """The folder of a fixture model; the old config format shares the weights of the new one."""

    def find(name: str) -> Path:
        if name != "modernbert_old_dialect":
            return fixtures / name
        shutil.copy(fixtures / name / "config.json", tmp_path)
        shutil.copy(fixtures / "modernbert" / "model.safetensors", tmp_path)
        return tmp_path

    return find


def arguments(case: dict[str, mx.array]) -> dict[str, mx.array]:
    return {
        key: case[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in case
    }


def valid_tokens(case: dict[str, mx.array]) -> np.ndarray:
    if "attention_mask" not in case:
        return np.ones(case["input_ids"].shape, dtype=bool)
    return np.array(case["attention_mask"]).astype(bool)


@pytest.mark.parametrize("name", CASES)
def test_all_hidden_states_of_valid_tokens_equal_those_of_transformers(
    name, fixtures, model_folder, read_case
):
    case = read_case(fixtures / f"{name}.safetensors")
    model, _ = load_model(model_folder(name.split("/")[0]))
    valid = valid_tokens(case)
    states = model.hidden_states(**arguments(case))
    assert len(states) == model.config.num_hidden_layers + 1
    for index, state in enumerate(states):
        difference = np.abs(np.array(state) - np.array(case[f"hidden.{index}"]))[valid]
        assert difference.max() < TOLERANCE, f"hidden state {index}"


def test_the_long_cases_reach_past_the_local_window(fixtures, model_folder, read_case):
    for name in CASES[3:]:
        model, _ = load_model(model_folder(name.split("/")[0]))
        length = read_case(fixtures / f"{name}.safetensors")["input_ids"].shape[1]
        assert length > 2 * model.config.local_attention


@pytest.mark.parametrize(
    ("name", "compiled"),
    [
        ("bert/right_padding", False),
        ("bert/right_padding", True),
        ("modernbert/left_padding", False),
    ],
)
def test_parameter_gradients_equal_those_of_transformers(name, compiled, fixtures, read_case):
    case = read_case(fixtures / f"{name}.safetensors")
    model, _ = load_model(fixtures / name.split("/")[0])

    def loss(parameters, inputs, cotangent):
        model.update(parameters)
        hidden = model(**inputs)
        pooled = model.pooled(hidden).sum() if "pooled" in case else 0.0
        return (hidden * cotangent).sum() + pooled

    gradient = mx.grad(loss)
    gradient = mx.compile(gradient) if compiled else gradient
    found = gradient(model.trainable_parameters(), arguments(case), case["cotangent"])
    expected = {key[9:]: case[key] for key in case if key.startswith("gradient.")}
    assert expected.keys() == dict(tree_flatten(found)).keys()
    for path, value in tree_flatten(found):
        reference = np.array(expected[path])
        scale = max(1.0, np.abs(reference).max())
        assert np.abs(np.array(value) - reference).max() < TOLERANCE * scale, path


@pytest.mark.parametrize("name", ["no_mask", "right_padding", "left_padding"])
def test_the_pooled_output_equals_that_of_transformers(name, fixtures, read_case):
    case = read_case(fixtures / "bert" / f"{name}.safetensors")
    model, _ = load_model(fixtures / "bert")
    # With left padding the first token is padding; in transformers too it attends to valid keys.
    pooled = model.pooled(model(**arguments(case)))
    assert np.abs(np.array(pooled - case["pooled"])).max() < TOLERANCE


def test_the_attention_dropout_path_equals_the_fused_one_at_probability_zero(
    fixtures, read_case, monkeypatch
):
    case = read_case(fixtures / "modernbert" / "left_padding.safetensors")
    model, _ = load_model(fixtures / "modernbert")
    expected = model(**arguments(case))
    monkeypatch.setattr(Context, "drop", lambda self, x, probability: x)
    for layer in model.layers:
        layer.attn.dropout_prob = 0.5
    model.train()
    difference = np.abs(np.array(model(**arguments(case)) - expected))
    assert difference[valid_tokens(case)].max() < TOLERANCE


@pytest.mark.skipif(
    "MLX_ENCODERS_MINILM" not in os.environ,
    reason="MLX_ENCODERS_MINILM does not name a folder of sentence-transformers/all-MiniLM-L6-v2",
)
def test_the_real_minilm_equals_transformers_on_sentences(fixtures, read_case):
    case = read_case(fixtures / "minilm.safetensors")
    model, tokenizer = load(os.environ["MLX_ENCODERS_MINILM"])
    sentences = json.loads((fixtures / "minilm_sentences.json").read_text())
    batch = tokenizer.pad(tokenizer.encode(sentences), multiple=1)
    assert (batch["input_ids"] == np.array(case["input_ids"])).all()
    hidden = model(**batch)
    valid = batch["attention_mask"]
    assert np.abs(np.array(hidden - case["hidden"]))[valid].max() < TOLERANCE
    assert np.abs(np.array(model.pooled(hidden) - case["pooled"])).max() < TOLERANCE
    assert isinstance(tokenizer, Tokenizer)
