"""Checkpoints of nanochat become model folders, if their models are supported."""

import json
import pickle
import re
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
import tiktoken
from click.testing import CliRunner

from mlx_gpt.commands.convert import convert
from mlx_gpt.models.convert import convert_nanochat, load_nanochat, model_from_tensors
from mlx_gpt.models.files import load_model
from mlx_gpt.models.nanochat import Nanochat
from mlx_gpt.models.nanochat_2025 import Nanochat2025
from mlx_gpt.models.pickles import read_torch_file
from mlx_gpt.tokenizer import SPECIALS, SPLIT_PATTERN, Tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
NEWER, OLDER = FIXTURES / "nanochat", FIXTURES / "nanochat_2025"


def read(checkpoint: Path) -> tuple[dict, dict[str, mx.array]]:
    """Return the model's config and the tensors of the only checkpoint in a folder."""
    (meta,), (weights,) = checkpoint.glob("meta_*"), checkpoint.glob("model_*")
    return json.loads(meta.read_text())["model_config"], read_torch_file(weights)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# The logits themselves are compared in test_nanochat.py and test_nanochat_2025.py.
@pytest.mark.parametrize(("checkpoint", "kind"), [(NEWER, Nanochat), (OLDER, Nanochat2025)])
def test_a_converted_folder_computes_what_the_checkpoint_does(tmp_path, checkpoint, kind):
    convert_nanochat(checkpoint, tmp_path, unsafe=True)
    loaded = load_model(tmp_path)
    assert type(loaded) is kind
    expected = mx.load(str(checkpoint / "expected.safetensors"))
    logits = loaded(expected["ids"])
    error = mx.abs(logits[:, :: 7 if kind is Nanochat else 4] - expected["logits"]).max()
    assert error <= 1e-5 * mx.abs(expected["logits"]).max()


def test_rows_that_are_no_tokens_are_left_out_of_the_older_model(tmp_path):
    _, tensors = read(OLDER)
    assert tensors["_orig_mod.lm_head.weight"].shape == (320, 16)
    convert_nanochat(OLDER, tmp_path, unsafe=True)
    written = mx.load(str(tmp_path / "model.safetensors"))
    assert written["lm_head.weight"].shape == written["transformer.wte.weight"].shape == (265, 16)
    assert written["transformer.wte.weight"].dtype == mx.bfloat16


def test_a_pickle_is_read_only_when_told_so(tmp_path):
    message = (
        f"{NEWER}/model_000010.pt is a pickle, which can run programs; "
        f"use unsafe=True (--unsafe) if you trust its source"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        convert_nanochat(NEWER, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_last_step_is_taken_unless_another_is_asked_for(tmp_path):
    for kind, name in (("model", "pt"), ("meta", "json")):
        shutil.copy(NEWER / f"{kind}_000010.{name}", tmp_path / f"{kind}_000010.{name}")
        shutil.copy(OLDER / f"{kind}_000005.{name}", tmp_path / f"{kind}_1000005.{name}")
    (tmp_path / "optim_2000000_rank0.pt").touch()
    assert isinstance(load_nanochat(tmp_path, unsafe=True), Nanochat2025)
    assert isinstance(load_nanochat(tmp_path, step=10, unsafe=True), Nanochat)


def test_what_nanochat_assumes_of_older_checkpoints_is_assumed():
    config, tensors = read(NEWER)
    neutral = {"resid_lambdas": mx.ones(3), "x0_lambdas": mx.zeros(3)}
    old_config = {key: value for key, value in config.items() if key != "window_pattern"}
    old = {name: tensor for name, tensor in tensors.items() if name not in neutral}
    got = model_from_tensors(old_config, old, "old")
    expected = model_from_tensors(config | {"window_pattern": "L"}, tensors | neutral, "new")
    ids = mx.array([list(range(70)) * 2])
    assert mx.array_equal(got(ids), expected(ids))


def write_tokenizer(path: Path, more: dict[bytes, int]) -> Path:
    """Write what nanochat does, of a tokenizer of bytes, `more`, and nanochat's specials."""
    ranks = {bytes([byte]): byte for byte in range(256)} | more
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIALS)}
    encoding = tiktoken.Encoding(
        "rustbpe", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=specials
    )
    path.write_bytes(pickle.dumps(encoding))
    return path


def test_the_tokenizer_is_converted_beside_the_model(tmp_path):
    pickled = write_tokenizer(tmp_path / "tokenizer.pkl", {})
    output = tmp_path / "model"
    options = ["--tokenizer", str(pickled), "--output", str(output), "--unsafe"]
    result = CliRunner().invoke(convert, ["nanochat", str(OLDER), *options], catch_exceptions=False)
    assert result.output == f"Nanochat2025 of 2 layers: {output}\n"
    tokenizer = Tokenizer.load(output)
    assert tokenizer.vocab_size == load_model(output).config.vocab_size == 265
    assert tokenizer.encode("BE") == [66, 69]


def test_a_tokenizer_of_another_size_is_refused_before_anything_is_written(tmp_path):
    pickled = write_tokenizer(tmp_path / "tokenizer.pkl", {b"th": 256})
    output = tmp_path / "model"
    message = f"{pickled} has 266 tokens, but the model of {OLDER} 265"
    with pytest.raises(ValueError, match=exactly(message)):
        convert_nanochat(OLDER, output, tokenizer=pickled, unsafe=True)
    assert not output.exists()


def test_models_of_the_weeks_between_are_refused():
    config, tensors = read(NEWER)
    del tensors["smear_lambda"], tensors["smear_gate.weight"], tensors["backout_lambda"]
    message = (
        "d12: a model of nanochat between 11 January and 14 March 2026 (it has resid_lambdas, but "
        "no smear_lambda); only older and newer ones are supported"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        model_from_tensors(config, tensors, "d12")


def test_a_tensor_that_is_missing_is_named():
    config, tensors = read(NEWER)
    del tensors["backout_lambda"]
    message = "d12: the tensors do not match the config; missing: backout_lambda"
    with pytest.raises(ValueError, match=exactly(message)):
        model_from_tensors(config, tensors, "d12")


@pytest.mark.parametrize("checkpoint", [NEWER, OLDER])
def test_a_config_with_something_unknown_is_refused(checkpoint):
    config, tensors = read(checkpoint)
    with pytest.raises(ValueError, match=r"^d12: model_config: n_engram: unknown key; "):
        model_from_tensors(config | {"n_engram": 2}, tensors, "d12")


def test_absent_and_damaged_files_are_named(tmp_path):
    absent = tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match=exactly(f"{absent}: no such folder")):
        load_nanochat(absent, unsafe=True)
    with pytest.raises(FileNotFoundError, match=exactly(f"{tmp_path} has no model_<step>.pt")):
        load_nanochat(tmp_path, unsafe=True)
    (tmp_path / "model_000003.pt").touch()
    meta = tmp_path / "meta_000003.json"
    with pytest.raises(FileNotFoundError, match=exactly(f"{meta}: no such file")):
        load_nanochat(tmp_path, unsafe=True)
    meta.write_text("{}")
    with pytest.raises(ValueError, match=exactly(f"{meta} has no model_config")):
        load_nanochat(tmp_path, unsafe=True)
    meta.write_text('{"model_config": {}}')
    message = f"{tmp_path}/model_000003.pt: not tensors from torch.save: File is not a zip file"
    with pytest.raises(ValueError, match=exactly(message)):
        load_nanochat(tmp_path, unsafe=True)


def test_the_command_writes_a_folder_and_says_what_it_is(tmp_path):
    output = tmp_path / "model"
    arguments = ["nanochat", str(NEWER), "--step", "10", "--output", str(output), "--unsafe"]
    result = CliRunner().invoke(convert, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"Nanochat of 3 layers: {output}",
        "without a tokenizer: give nanochat's tokenizer.pkl with --tokenizer",
    ]
    assert load_model(output).config.n_layer == 3


def test_the_command_needs_an_output_and_trust(tmp_path):
    result = CliRunner().invoke(convert, ["nanochat", str(NEWER)])
    assert result.exit_code == 2
    assert "Missing option '--output'" in result.output
    result = CliRunner().invoke(convert, ["nanochat", str(NEWER), "--output", str(tmp_path / "m")])
    assert result.exit_code == 1
    assert "--unsafe" in str(result.exception)
