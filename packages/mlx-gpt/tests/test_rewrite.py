"""Converted, fused and exported folders compute what the model computed, or say how far off."""

import json
import re
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from decoder_folders import CASES, IDS, error, tensors_of, write_folder
from mlx.utils import tree_map_with_path

from mlx_gpt.cli import cli
from mlx_gpt.models.files import load_model
from mlx_gpt.models.output import new_model_folder
from mlx_gpt.models.quantization import quantized_layers
from mlx_lora import LoraConfig, add_adapter, save_adapter, save_mlx_lm_adapter


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def logits(folder: Path, dtype: mx.Dtype | None = None) -> mx.array:
    return load_model(folder, dtype)(IDS)


# Convert.


@pytest.mark.parametrize(("case", "bits"), [("qwen3", 4), ("gpt2", 8)])
def test_quantized_and_back_is_rounded_once(tmp_path, case, bits):
    folder = write_folder(tmp_path / "plain", case)
    small, again = tmp_path / "small", tmp_path / "again"
    text = done(
        "convert", "quantize", folder, "--bits", bits, "--group-size", 32, "--output", small
    )
    assert f"layers of {bits} bits: " in text
    done("convert", "dequantize", small, "--dtype", "float32", "--output", again)
    quantized = load_model(small, mx.float32)
    layers = quantized_layers(quantized)
    assert {each.bits for each in layers.values()} == {bits}
    assert mx.allclose(logits(again), quantized(IDS), atol=1e-4)
    assert 0 < error(logits(again), case) < {4: 4.0, 8: 0.5}[bits]
    assert logits(again).shape == (2, 24, 48)
    assert not quantized_layers(load_model(again))


def test_layers_that_cannot_be_quantized_are_named(tmp_path):
    folder = write_folder(tmp_path / "plain", "llama")
    text = done("convert", "quantize", folder, "--group-size", 32, "--output", tmp_path / "small")
    assert text.splitlines()[1] == (
        "not quantized, rows no multiple of 32: model.layers.0.mlp.down_proj, "
        "model.layers.1.mlp.down_proj"
    )
    result = run("convert", "quantize", folder, "--output", tmp_path / "smaller")
    assert str(result.exception) == "no layer has rows of a multiple of 64 numbers"
    result = run("convert", "quantize", tmp_path / "small", "--output", tmp_path / "smaller")
    assert str(result.exception).startswith("the model is quantized already")


def test_a_cast_rounds_and_an_overflow_is_refused(tmp_path):
    folder = write_folder(tmp_path / "plain", "gpt2")
    done("convert", "dtype", folder, "float32", "--output", tmp_path / "wide")
    done("convert", "dtype", tmp_path / "wide", "bfloat16", "--output", tmp_path / "narrow")
    saved, stored = mx.load(str(tmp_path / "narrow/model.safetensors")), tensors_of("gpt2")
    prefix = "transformer."
    assert all(mx.array_equal(saved[name.removeprefix(prefix)], stored[name]) for name in stored)
    tensors = stored | {"transformer.ln_f.weight": mx.full((32,), 1e5, mx.bfloat16)}
    large = write_folder(tmp_path / "large", "gpt2", tensors=tensors)
    result = run("convert", "dtype", large, "float16", "--output", tmp_path / "half")
    assert str(result.exception).startswith("cast to float16: weights are not finite")
    assert not (tmp_path / "half").exists()


def test_what_belongs_to_the_tokenizer_comes_along(tmp_path):
    folder = write_folder(tmp_path / "plain", "llama")
    files = {
        "tokenizer.json": "{}",
        "chat_template.jinja": "{{ x }}",
        "generation_config.json": '{"eos_token_id": [1, 2]}',
        "additional_chat_templates/tool_use.jinja": "{{ y }}",
    }
    (folder / "additional_chat_templates").mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    done("export", folder, "--output", tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_text() for name in files} == files


# Output folders.


def test_an_output_folder_is_replaced_only_if_it_is_ours(tmp_path):
    folder, out = write_folder(tmp_path / "plain", "llama"), tmp_path / "out"
    command = ("convert", "dtype", folder, "float32", "--output", out)
    out.mkdir()
    done(*command)  # an empty folder
    assert str(run(*command).exception) == (
        f"{out} exists; name a new folder, or replace it with --overwrite"
    )
    done(*command, "--overwrite")
    (out / "notes.txt").write_text("mine")
    assert str(run(*command, "--overwrite").exception) == (
        f"{out} has other files, as notes.txt; move them away first"
    )
    assert (out / "notes.txt").read_text() == "mine"
    theirs = write_folder(tmp_path / "theirs", "qwen3")
    result = run("convert", "dtype", folder, "float32", "--output", theirs, "--overwrite")
    assert "was not written by mlx-gpt (it has no manifest.json)" in str(result.exception)
    result = run("convert", "dtype", out, "float32", "--output", out, "--overwrite")
    assert "has the model that is read" in str(result.exception)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "plain", "theirs"]


def test_an_error_leaves_the_old_folder_and_no_other(tmp_path):
    folder, out = write_folder(tmp_path / "plain", "llama"), tmp_path / "out"
    done("export", folder, "--output", out)
    before = {each.name: each.read_bytes() for each in out.iterdir()}

    def fail() -> None:
        with new_model_folder(out, folder, overwrite=True) as new:
            (new / "config.json").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert {each.name: each.read_bytes() for each in out.iterdir()} == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "plain"]


# Fuse.


def adapter_on(base: Path, folder: Path, size: float = 0.02, form: str = "peft") -> Path:
    """Write an adapter of random numbers for the model in `base`."""
    model = load_model(base, mx.float32)
    add_adapter(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj"]))
    random = np.random.default_rng(0)

    def fill(path: str, array: mx.array) -> mx.array:
        values = random.normal(0, size, array.shape).astype(np.float32)
        return mx.array(values) if "lora_" in path else array

    model.update(tree_map_with_path(fill, model.trainable_parameters()))
    (save_adapter if form == "peft" else save_mlx_lm_adapter)(model, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    key = "base_model_name_or_path" if form == "peft" else "model"
    (folder / "adapter_config.json").write_text(json.dumps(config | {key: str(base)}))
    return folder


def lost(text: str) -> float:
    """Return the share of the adapter's effect that `mlx-gpt fuse` reported as lost."""
    return float(re.search(r"fusing lost (\S+) of that change", text)[1])


@pytest.mark.parametrize("form", ["peft", "mlx-lm"])
def test_fused_into_a_plain_model_the_adapter_is_all_there(tmp_path, form):
    base = tmp_path / "base"
    plain = write_folder(tmp_path / "plain", "llama_gqa_head_dim")
    done("convert", "dtype", plain, "float32", "--output", base)
    adapter = adapter_on(base, tmp_path / "adapter", 0.2, form)
    text = done("fuse", adapter, "--output", tmp_path / "fused")
    assert "100.0% of the adapter's effect survives" in text
    assert lost(text) < 1e-5
    assert mx.allclose(logits(tmp_path / "fused"), logits(adapter), atol=1e-4)
    assert mx.abs(logits(tmp_path / "fused") - logits(base)).max() > 0.1


def test_t5_fused_into_a_quantized_model_the_adapter_is_all_there(tmp_path):
    """mlx-lm's fuse rounds the fused layers to 4 bits again: 65 % of a small adapter are lost."""
    base = write_folder(tmp_path / "base", "mlx_lm_llama_gqa_head_dim")
    adapter = adapter_on(base, tmp_path / "adapter")
    text = done("fuse", adapter, "--output", tmp_path / "fused")
    assert lost(text) < 1e-3
    fused = load_model(tmp_path / "fused")
    expected = load_model(adapter, mx.float32)(IDS)
    effect = expected - load_model(base, mx.float32)(IDS)
    found = load_model(tmp_path / "fused", mx.float32)(IDS)
    assert mx.square(found - expected).mean() < 1e-6 * mx.square(effect).mean()
    paths = quantized_layers(fused).keys()
    assert "model.layers.0.self_attn.k_proj" in paths
    assert not any(path.endswith(("q_proj", "v_proj", "o_proj")) for path in paths)
    assert fused.model["layers"][0].self_attn.q_proj.weight.dtype == mx.float32


def test_requantizing_loses_much_of_a_small_adapter_and_says_so(tmp_path):
    base = write_folder(tmp_path / "base", "mlx_lm_llama_gqa_head_dim")
    adapter = adapter_on(base, tmp_path / "adapter")
    text = done("fuse", adapter, "--output", tmp_path / "fused", "--requantize")
    assert "merge with requantize=False" in text
    assert lost(text) > 0.3
    stored = CASES["mlx_lm_llama_gqa_head_dim"]["shapes"]
    assert mx.load(str(tmp_path / "fused/model.safetensors")).keys() == stored.keys()


def test_adapters_are_fused_before_they_are_converted(tmp_path):
    base = write_folder(tmp_path / "base", "llama")
    adapter = adapter_on(base, tmp_path / "adapter")
    for command in (("export", adapter), ("convert", "dtype", adapter, "float32")):
        result = run(*command, "--output", tmp_path / "out")
        assert str(result.exception) == (
            f"{adapter} is an adapter; make it a whole model first, with mlx-gpt fuse"
        )
    shutil.rmtree(adapter)
    adapter.mkdir()
    result = run("fuse", adapter, "--output", tmp_path / "out")
    assert str(result.exception) == f"{adapter} has no adapter (adapter_config.json)"


# Export and info.


def test_exported_quantized_models_are_plain_for_transformers(tmp_path):
    name = "mlx_lm_gpt2"
    folder = write_folder(tmp_path / "small", name)
    assert "dequantized layers: " in done("export", folder, "--output", tmp_path / "out")
    saved = mx.load(str(tmp_path / "out/model.safetensors"))
    shapes = {
        name.removeprefix("transformer."): each for name, each in CASES["gpt2"]["shapes"].items()
    }
    assert {key: list(each.shape) for key, each in saved.items()} == shapes
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert not config.keys() & {"quantization", "quantization_config"}
    wide = done("export", folder, "--output", tmp_path / "wide", "--dtype", "float32")
    assert "float32" not in wide
    assert mx.allclose(logits(tmp_path / "wide"), logits(folder, mx.float32), atol=1e-4)


def test_info_counts_what_the_file_has(tmp_path):
    for name in ("llama", "gpt2"):
        folder = write_folder(tmp_path / name, name)
        found = json.loads(done("info", folder, "--json"))
        stored = tensors_of(name)
        assert found["parameters"] == sum(each.size for each in stored.values())
        assert found["weights"] == sum(each.nbytes for each in stored.values())
        assert (found["dtype"], found["bits_per_weight"]) == ("bfloat16", 16)
        assert found["weights_here"] == found["weights"] * {"CPU": 2}.get(
            found["device"]["backend"], 1
        )
    small = json.loads(done("info", write_folder(tmp_path / "q", "mlx_lm_gpt2"), "--json"))
    assert small["parameters"] == sum(each.size for each in tensors_of("gpt2").values())
    assert small["quantization"]["bits"] == 4


def test_info_measures_the_cache(tmp_path):
    folder = write_folder(tmp_path, "mistral")
    found = json.loads(done("info", folder, "--json", "--device", "cpu"))
    assert found["window"] == 7
    assert found["cache_per_token"] == 2 * 2 * 2 * 8 * 4  # keys, values; layers, heads, dims; bytes
    assert found["cache_full"] == 7 * found["cache_per_token"]
    text = done("info", folder)
    assert "context       64 tokens, a window of 7" in text
    assert "which fits" in text


def test_a_gpu_that_is_absent_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(mx, "is_available", lambda device: device == mx.cpu)
    result = run("info", write_folder(tmp_path, "llama"), "--device", "gpu")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: Invalid value for '--device': MLX finds no GPU here; on Linux it needs an NVIDIA "
        "GPU and the extra cuda12 or cuda13"
    )


RUNNERS = {
    *("bench", "chat", "estimate", "evaluate", "finetune", "fuse", "generate", "info"),
    *("rl", "sft", "speedrun", "train"),
}


@pytest.mark.parametrize("name", sorted(RUNNERS))
def test_commands_that_run_a_model_let_the_user_choose_the_device(name):
    assert "--device" in {flag for each in cli.commands[name].params for flag in each.opts}
