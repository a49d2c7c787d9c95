"""The older model against nanochat's own code of that time, mlx-lm and transformers."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_gpt.models.convert import load_nanochat
from mlx_gpt.models.files import load_model, save_model
from mlx_gpt.models.formats import named_parameters
from mlx_gpt.models.nanochat_2025 import Nanochat2025, Nanochat2025Config
from mlx_gpt.training.losses import loss_sum

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def model() -> Nanochat2025:
    """Three layers, two query heads to a key head; no weight is zero."""
    random = np.random.default_rng(0)
    model = Nanochat2025(Nanochat2025Config(32, 70, 3, 4, 2, 32))

    def draw(parameter: mx.array) -> mx.array:
        sigma = 1.5 * parameter.shape[-1] ** -0.5
        return mx.array(random.normal(scale=sigma, size=parameter.shape).astype(np.float32))

    model.update(tree_map(draw, model.parameters()))
    return model


@pytest.fixture
def ids() -> mx.array:
    """Two rows of 40 tokens, more than the model's sequence_len: it has no windows."""
    return mx.array(np.random.default_rng(1).integers(0, 70, (2, 40)))


def assert_near(got: mx.array, expected: mx.array) -> None:
    assert got.shape == expected.shape
    assert mx.abs(got - expected).max() <= 1e-5 * mx.abs(expected).max()


def test_logits_are_those_of_nanochats_own_code_of_that_time():
    model = load_nanochat(FIXTURES / "nanochat_2025", unsafe=True)
    assert isinstance(model, Nanochat2025)
    expected = mx.load(str(FIXTURES / "nanochat_2025/expected.safetensors"))
    assert_near(model(expected["ids"])[:, ::4], expected["logits"])


@pytest.mark.parametrize(("folder", "norm_eps"), [("mlx_lm", 1e-5), ("transformers", 1e-6)])
def test_logits_are_those_of_who_wrote_the_folder(folder, norm_eps):
    model = load_model(FIXTURES / folder)
    assert model.config == Nanochat2025Config(64, 70, 2, 4, 2, 16, norm_eps=norm_eps)
    expected = mx.load(str(FIXTURES / folder / "expected.safetensors"))
    assert_near(model(expected["ids"]), expected["logits"])


def test_what_is_saved_has_all_that_mlx_lm_reads(tmp_path):
    theirs = FIXTURES / "mlx_lm"
    save_model(load_model(theirs), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    expected = json.loads((theirs / "config.json").read_text())
    assert {key: config[key] for key in expected} == expected
    tensors = mx.load(str(tmp_path / "model.safetensors"))
    expected = mx.load(str(theirs / "model.safetensors"))
    assert tensors.keys() == expected.keys()
    assert all(mx.array_equal(tensors[name], array) for name, array in expected.items())


@pytest.mark.parametrize("change", [{"rope_theta": 50.0}, {"norm_eps": 0.01}], ids=str)
def test_rotation_and_epsilon_matter_and_are_kept(tmp_path, model, ids, change):
    other = Nanochat2025(replace(model.config, **change))
    other.update(model.parameters())
    assert mx.abs(other(ids) - model(ids)).max() > 0.01
    save_model(other, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == other.config
    assert mx.array_equal(loaded(ids), other(ids))


@pytest.mark.parametrize("sizes", [[1] * 40, [40], [5, 1, 20, 14]], ids=str)
def test_cached_logits_are_those_of_the_whole(model, ids, sizes):
    cache, got, seen = model.make_cache(), [], 0
    for size in sizes:
        got.append(model(ids[:, seen : seen + size], cache))
        seen += size
    assert_near(mx.concatenate(got, axis=1), model(ids))


def test_padding_on_the_left_changes_nothing(model, ids):
    cache = model.make_cache(left_padding=[0, 7])
    padded = mx.concatenate([mx.zeros((1, 7), ids.dtype), ids[1:, :-7]], axis=1)
    got = model(mx.concatenate([ids[:1], padded]), cache)
    assert_near(got[:1], model(ids[:1]))
    assert_near(got[1:, 7:], model(ids[1:, :-7]))
    after = model(ids[:, :1], cache)
    whole = mx.concatenate([ids[1:, :-7], ids[1:, :1]], axis=1)
    assert_near(after[1:], model(whole)[:, -1:])


def test_no_token_sees_those_after_it(model, ids):
    changed = mx.concatenate([ids[:, :20], (ids[:, 20:] + 1) % 70], axis=1)
    assert mx.array_equal(model(changed)[:, :20], model(ids)[:, :20])
    assert not mx.allclose(model(changed)[:, 20:], model(ids)[:, 20:])


def test_recomputed_blocks_give_equal_gradients(model, ids):
    def loss(model: Nanochat2025) -> mx.array:
        hidden = model.hidden_states(ids)
        return loss_sum(hidden, model.head_weight, mx.roll(ids, -1), cap=model.logit_cap)

    _, plain = nn.value_and_grad(model, loss)(model)
    model.checkpoint_blocks = True
    _, recomputed = nn.value_and_grad(model, loss)(model)
    assert len(tree_flatten(plain)) == 2 + 3 * 6
    for (name, got), (_, expected) in zip(
        tree_flatten(recomputed), tree_flatten(plain), strict=True
    ):
        assert mx.abs(expected).max() > 0, name
        assert_near(got, expected)


def test_weights_begin_as_in_nanochat():
    config = Nanochat2025Config(64, 2000, 2, 4, 2, 128)
    model = Nanochat2025(config, mx.bfloat16).initialize(mx.random.key(0))
    weights = named_parameters(model)
    assert weights["transformer.wte.weight"].dtype == mx.bfloat16
    deviations = {name: mx.std(array.astype(mx.float32)).item() for name, array in weights.items()}
    for name, deviation in deviations.items():
        expected = 128**-0.5
        if name == "transformer.wte.weight":
            expected = 1.0
        elif name == "lm_head.weight":
            expected = 0.001
        elif "c_proj" in name:
            expected = 0.0
        else:
            assert weights[name].dtype == mx.float32
            assert mx.abs(weights[name]).max() <= math.sqrt(3 / 128)
        assert deviation == pytest.approx(expected, rel=0.02), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "intermediate_size: must be four times hidden_size, got 64 and 0"),
        ({"num_hidden_layers": 0}, "n_layer must be at least 1, got 0"),
        ({"num_key_value_heads": 3}, "n_head must be a multiple of n_kv_head, got 4 and 3"),
        (
            {"intermediate_size": 60},
            "intermediate_size: must be four times hidden_size, got 60 and 16",
        ),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping: must be 15.0, got 30.0"),
        (
            {"hidden_act": "gelu"},
            "hidden_act: unknown value 'gelu'; did you mean 'relu2'?; valid: relu2",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            "rope_parameters.rope_type: unknown value 'yarn'; valid: default",
        ),
        ({"hidden_siez": 16}, "hidden_siez: unknown key; did you mean 'hidden_size'?"),
        ({"vocab_size": "70"}, "vocab_size: must be a whole number, got '70'"),
        (
            {"quantization": {"bits": 4}},
            "quantized weights are not supported; use the model before quantization",
        ),
        (
            {"model_type": "lama"},
            "model_type 'lama' is not supported here, only nanochat, "
            "gpt2, llama, mistral, qwen2, qwen3, smollm3; mlx_lm loads many others",
        ),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(tmp_path, change, message):
    folder = shutil.copytree(FIXTURES / "mlx_lm", tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}$"):
        load_model(folder)
