"""Against PEFT 0.21: tools/make_fixtures_lora.py made the fixtures."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_lora import load_adapter, merge, save_adapter
from mlx_lora.peft_files import adapter_tensors

FIXTURES = Path(__file__).parent / "fixtures/peft"
CASES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
PREFIX = "base_model.model."
DATA = mx.load(str(FIXTURES / "base.safetensors"))
IDS, LABELS = DATA["ids"], DATA["labels"]


def channels_last(path: str, array: mx.array) -> mx.array:
    return mx.moveaxis(array, 1, -1) if path.startswith("conv") and array.ndim > 2 else array


@pytest.fixture
def base(make):
    model = make()
    weights = {path: channels_last(path, a) for path, a in DATA.items() if "." in path}
    model.load_weights(list(weights.items()))
    return model


def tensors_of(folder: Path) -> dict[str, mx.array]:
    return mx.load(str(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize("case", CASES)
def test_outputs_of_loaded_adapters(base, case):
    expected = mx.load(str(FIXTURES / case / "case.safetensors"))
    for moment in ("start", "end"):
        load_adapter(base, FIXTURES / case / moment, moment)
        np.testing.assert_allclose(base(IDS), expected[f"logits_{moment}"], atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_of_training(base, case):
    expected = mx.load(str(FIXTURES / case / "case.safetensors"))
    load_adapter(base, FIXTURES / case / "start", trainable=True)
    step = nn.value_and_grad(
        base, lambda: nn.losses.cross_entropy(base(IDS), LABELS, reduction="mean")
    )
    optimizer = optim.AdamW(learning_rate=1e-2, weight_decay=0.01, bias_correction=True)
    losses = []
    for index in range(10):
        loss, gradients = step()
        if index == 0:
            compare_gradients(base, gradients, expected)
        optimizer.update(base, gradients)
        mx.eval(base.parameters(), optimizer.state)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, expected["losses"], atol=1e-5)
    found = adapter_tensors(base, "default")
    for path, array in tensors_of(FIXTURES / case / "end").items():
        np.testing.assert_allclose(found[path.removeprefix(PREFIX)], array, atol=1e-5, err_msg=path)


def compare_gradients(model: nn.Module, gradients: dict, expected: dict[str, mx.array]) -> None:
    """Place the gradients in the adapter, to read them in PEFT's names and layout."""
    kept = dict(tree_flatten(model.trainable_parameters()))
    model.update(gradients)
    found = adapter_tensors(model, "default")
    model.update(tree_unflatten(list(kept.items())))
    prefix = f"gradient.{PREFIX}"
    wanted = {p.removeprefix(prefix): a for p, a in expected.items() if p.startswith(prefix)}
    assert wanted.keys() == found.keys()
    for path, array in wanted.items():  # measured: at most 1.1e-6 of the largest entry
        size = float(mx.abs(array).max())
        np.testing.assert_allclose(found[path], array, rtol=0, atol=1e-5 * size, err_msg=path)


# Those of "pissa" and "olora" are saved as plain adapters of twice the rank.
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("pissa", "olora")])
def test_saving_what_was_loaded_gives_the_same_bytes(base, case, tmp_path):
    source = FIXTURES / case / "start"
    load_adapter(base, source)
    save_adapter(base, tmp_path)
    written, read = tensors_of(tmp_path), tensors_of(source)
    assert written.keys() == read.keys()
    for path, array in read.items():
        assert written[path].dtype == array.dtype
        assert bytes(memoryview(written[path])) == bytes(memoryview(array)), path
    ours = json.loads((tmp_path / "adapter_config.json").read_text())
    theirs = json.loads((source / "adapter_config.json").read_text())
    for key in ours.keys() & theirs.keys() - {"target_modules", "feedforward_modules"}:
        assert ours[key] == theirs[key], key
    for key in ("target_modules", "feedforward_modules"):
        if not isinstance(ours.get(key), str):
            assert set(ours.get(key, ())) == set(theirs.get(key, ()))


@pytest.mark.parametrize("case", CASES)
def test_merged_weights(base, case):
    expected = mx.load(str(FIXTURES / case / "case.safetensors"))
    load_adapter(base, FIXTURES / case / "end")
    merge(base)
    np.testing.assert_allclose(base(IDS), expected["logits_merged"], atol=1e-5)
    found = {path.replace(".base_layer.", "."): a for path, a in tree_flatten(base.parameters())}
    wanted = {path.removeprefix("merged."): a for path, a in expected.items() if "merged." in path}
    for path, array in wanted.items():
        np.testing.assert_allclose(found[path], channels_last(path, array), atol=1e-6, err_msg=path)


@pytest.mark.parametrize("case", ["pissa", "olora"])
def test_what_peft_subtracted_from_its_base_is_saved_as_a_plain_adapter(base, make, case, tmp_path):
    expected = mx.load(str(FIXTURES / case / "case.safetensors"))
    load_adapter(base, FIXTURES / case / "end")
    save_adapter(base, tmp_path)
    config = load_adapter(base, tmp_path, "again")
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (6, 12, True)
    np.testing.assert_allclose(base(IDS), expected["logits_end"], atol=1e-5)
