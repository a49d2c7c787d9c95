"""The Llama family and GPT-2 compute what transformers computes, whole, cached and packed."""

from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import pytest
from decoder_folders import (
    CASES,
    EXPECTED,
    IDS,
    PLAIN,
    ROPES,
    error,
    tensors_of,
    write_folder,
)
from mlx.utils import tree_flatten

from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.files import load_model, read_model_config
from mlx_gpt.models.layers import segment_mask
from mlx_gpt.models.rope import RopeConfig, frequencies, read_rope

TOLERANCE = 1e-4  # the logits are about 5; float32 sums in another order


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Decoder]:
    """The model of each case, in float32."""
    root = tmp_path_factory.mktemp("models")
    return {name: load_model(write_folder(root / name, name), mx.float32) for name in PLAIN}


@pytest.mark.parametrize("name", PLAIN)
def test_logits_equal_those_of_transformers(models, name):
    assert error(models[name](IDS), name) < TOLERANCE


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("dialect", ["rope_parameters", "rope_scaling"])
def test_rotary_frequencies_of_published_models_equal_those_of_transformers(name, dialect):
    values = {dialect: ROPES[name], "max_position_embeddings": 131_072}
    rope = read_rope(values, 10_000.0)
    *radians, factor = EXPECTED[f"rope/{name}"].tolist()
    assert frequencies(rope, 128) == pytest.approx(radians, rel=1e-5)  # theirs are float32
    assert rope.attention_factor == pytest.approx(factor)


def test_a_config_without_rope_has_the_base_of_its_family(tmp_path):
    for name, theta in (("llama", 10_000), ("qwen2", 10_000), ("smollm3", 2_000_000)):
        folder = write_folder(tmp_path / name, name, "config", {"rope_parameters": None})
        assert read_model_config(folder).rope == RopeConfig(theta)


@pytest.mark.parametrize("name", PLAIN)
def test_configs_of_transformers_4_give_the_same_model(models, name, tmp_path):
    older = read_model_config(write_folder(tmp_path, name, "v4"))
    newer = read_model_config(write_folder(tmp_path, name))
    assert older == newer


@pytest.mark.parametrize("name", PLAIN)
def test_chunks_with_a_cache_equal_one_pass(models, name):
    model = models[name]
    cache, borders = model.make_cache(), (0, 5, 6, 7, 15, 16, 24)
    chunks = [
        model(IDS[:, begin:end], cache)
        for begin, end in pairwise(borders)
    ]  # fmt: skip
    assert error(mx.concatenate(chunks, axis=1), name) < TOLERANCE


@pytest.mark.parametrize("name", ["llama3", "mistral", "smollm3", "gpt2"])
def test_prompts_padded_on_the_left_give_the_logits_of_each_alone(models, name):
    model = models[name]
    prompts = [IDS[0, :11], IDS[1, :4]]
    padded = mx.stack([prompts[0], mx.concatenate([mx.zeros(7, mx.int32), prompts[1]])])
    cache = model.make_cache([0, 7])
    together = model(padded, cache)[:, -1]
    then = model(mx.array([[3], [3]]), cache)[:, -1]
    for row, prompt in enumerate(prompts):
        alone = model(mx.concatenate([prompt, mx.array([3])])[None])[0]
        assert mx.abs(together[row] - alone[-2]).max() < 1e-5
        assert mx.abs(then[row] - alone[-1]).max() < 1e-5


def packed_and_alone(model: Decoder) -> tuple[mx.array, mx.array]:
    """Return the logits of three rows packed into one, and of each alone, (24, vocabulary)."""
    lengths = (9, 11, 4)
    rows = mx.split(IDS[0], [9, 20])
    segments = mx.concatenate([mx.full((n,), i, mx.int32) for i, n in enumerate(lengths, 1)])
    alone = mx.concatenate([model(row[None])[0] for row in rows])
    return model(IDS[:1], None, segments[None])[0], alone


@pytest.mark.parametrize("name", ["llama", "llama3", "mistral", "qwen3", "smollm3", "gpt2"])
def test_packed_rows_give_the_logits_and_gradients_of_each_alone(models, name):
    model = models[name]
    packed, alone = packed_and_alone(model)
    assert mx.abs(packed - alone).max() <= 1e-5 * (1 + mx.abs(alone).max())
    weights = mx.random.normal(packed.shape, key=mx.random.key(0)) / packed.size

    def gradients(index: int) -> dict[str, mx.array]:
        _, found = nn.value_and_grad(model, lambda m: (packed_and_alone(m)[index] * weights).sum())(
            model
        )
        return dict(tree_flatten(found))

    for (path, ours), theirs in zip(gradients(0).items(), gradients(1).values(), strict=True):
        assert mx.abs(ours - theirs).max() <= 1e-5 * (1 + mx.abs(theirs).max()), path


def test_a_token_of_a_packed_row_sees_its_own_segment_and_window():
    mask = segment_mask(mx.array([[1, 1, 1, 2, 2]]), 1)[0, 0]
    assert mask.tolist() == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [False, True, True, False, False],
        [False, False, False, True, False],
        [False, False, False, True, True],
    ]


@pytest.mark.parametrize("name", ["mistral", "gpt2"])
def test_checkpointed_blocks_have_the_same_gradients(models, name):
    model = models[name]

    def gradients() -> list[mx.array]:
        _, found = nn.value_and_grad(model, lambda m: mx.square(m(IDS)).mean())(model)
        return [each for _, each in tree_flatten(found)]

    plain = gradients()
    model.checkpoint_blocks = True
    try:
        checkpointed = gradients()
    finally:
        model.checkpoint_blocks = False
    assert all(mx.allclose(a, b, atol=1e-6) for a, b in zip(plain, checkpointed, strict=True))


@pytest.mark.parametrize("name", PLAIN)
def test_parameters_have_the_names_and_gradients_of_the_file(models, name):
    """Rotary tables, masks and scales are no parameters."""
    names = dict(tree_flatten(models[name].trainable_parameters()))
    assert names.keys() == CASES[name]["shapes"].keys()


def test_gpt2_refuses_more_tokens_than_it_has_positions(models):
    ids = mx.zeros((1, 41), mx.int32)
    with pytest.raises(ValueError, match=r"^41 tokens, but the model has 40 positions$"):
        models["gpt2"](ids)
    cache = models["gpt2"].make_cache()
    models["gpt2"](ids[:, :40], cache)
    with pytest.raises(ValueError, match=r"^41 tokens, but the model has 40 positions$"):
        models["gpt2"](ids[:, :1], cache)


def test_the_head_weight_gives_the_logits(models):
    for name in ("llama", "llama_tied", "gpt2"):
        model = models[name]
        hidden = model.hidden_states(IDS)
        assert mx.allclose(hidden @ model.head_weight.T, model.logits(hidden), atol=1e-5)
        assert model.logit_cap is None


def test_weights_of_the_file_are_kept_or_cast(tmp_path):
    folder = write_folder(tmp_path, "llama")
    kept = dict(tree_flatten(load_model(folder).parameters()))
    stored = tensors_of("llama")
    assert all(mx.array_equal(kept[name], stored[name]) for name in stored)
    assert {each.dtype for each in kept.values()} == {mx.bfloat16}
