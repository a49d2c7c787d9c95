"""Folders of transformers and mlx-lm are read as they are, or refused by name."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from decoder_folders import (
    ADAPTERS,
    CASES,
    IDS,
    PLAIN,
    QUANTIZED,
    error,
    tensors_of,
    write_adapter,
    write_folder,
)

from mlx_gpt.models.cache import NO_WINDOW
from mlx_gpt.models.files import load_model, read_model_config, save_model

REMOVED = None  # a key of the config that is left out


def load(folder: Path):
    return load_model(folder, mx.float32)


# What mlx-lm 0.32 gets wrong.


def test_m1_rope_parameters_of_transformers_5_are_read(tmp_path):
    config = read_model_config(write_folder(tmp_path, "llama3"))
    assert "rope_theta" not in CASES["llama3"]["config"]
    assert (config.rope.rope_theta, config.rope.rope_type) == (500_000.0, "llama3")
    assert (config.rope.factor, config.rope.original_max_position_embeddings) == (8.0, 16)


@pytest.mark.parametrize(
    ("case", "key", "head", "tied"),
    [
        ("llama", REMOVED, "own", False),
        ("llama", REMOVED, "none", True),
        ("llama", False, "own", False),
        ("llama", True, "same", True),
        ("llama", True, "own", False),  # as transformers does
        ("gpt2", REMOVED, "none", True),
        ("gpt2", REMOVED, "same", True),
        ("gpt2", REMOVED, "own", False),
        ("gpt2", False, "own", False),
    ],
)
def test_m2_the_head_is_tied_by_the_config_and_what_is_stored(tmp_path, case, key, head, tied):
    embedding = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}[case]
    tensors = tensors_of(case) | {"lm_head.weight": tensors_of("llama")["lm_head.weight"]}
    if head == "none":
        del tensors["lm_head.weight"]
    elif head == "same":
        tensors["lm_head.weight"] = tensors[embedding]
    folder = write_folder(tmp_path, case, "config", {"tie_word_embeddings": key}, tensors)
    model = load(folder)
    assert model.config.tie_word_embeddings == tied
    used = tensors[embedding if tied else "lm_head.weight"].astype(mx.float32)
    assert mx.array_equal(model.head_weight, used)


def test_m2_a_head_that_the_config_promises_must_be_there(tmp_path):
    tensors = tensors_of("llama")
    del tensors["lm_head.weight"]
    with pytest.raises(ValueError, match=r"tensors do not match .*; missing: lm_head.weight$"):
        load(write_folder(tmp_path, "llama", tensors=tensors))


def test_m3_mistrals_window_holds_without_layer_types(tmp_path):
    folder = write_folder(tmp_path, "mistral", "v4")
    assert "layer_types" not in CASES["mistral"]["v4"]
    assert read_model_config(folder).layer_windows == (6, 6)
    assert error(load(folder)(IDS), "mistral") < 1e-4
    write_folder(tmp_path, "mistral", "v4", {"sliding_window": REMOVED})
    assert read_model_config(folder).layer_windows == (4095, 4095)


def gpt2_variant(variant: str) -> tuple[dict, dict]:
    """Return changes of the config, and the tensors, of a variant that is in use."""
    tensors = tensors_of("gpt2")
    if variant == "no prefix":
        return {}, {name.removeprefix("transformer."): each for name, each in tensors.items()}
    if variant == "stored head":
        return {}, tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}
    if variant == "buffers":
        mask = mx.ones((1, 1, 40, 40), mx.uint8)
        buffers = {"bias": mask, "masked_bias": mx.array(-1e4)}
        return {}, tensors | {f"transformer.h.0.attn.{key}": each for key, each in buffers.items()}
    return {"n_ctx": REMOVED if variant == "no n_ctx" else 40}, tensors


@pytest.mark.parametrize("variant", ["no prefix", "stored head", "buffers", "no n_ctx", "n_ctx"])
def test_m4_all_forms_of_gpt2_load(tmp_path, variant):
    changes, tensors = gpt2_variant(variant)
    assert (
        error(load(write_folder(tmp_path, "gpt2", "config", changes, tensors))(IDS), "gpt2") < 1e-4
    )


def test_inverse_frequencies_in_old_files_are_left_out(tmp_path):
    tensors = tensors_of("llama")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = mx.ones(4)
    assert error(load(write_folder(tmp_path, "llama", tensors=tensors))(IDS), "llama") < 1e-4


# Quantized by mlx-lm.


def test_folders_that_mlx_lm_quantized_give_its_logits(tmp_path):
    """In a process of its own, because commands make MLX fast, which rounds in another way."""
    for name in QUANTIZED:
        write_folder(tmp_path / name, name)
    script = "\n".join([
        "import sys",
        "from pathlib import Path",
        "from decoder_folders import IDS, error",
        "from mlx_gpt.models.files import load_model",
        "for folder in map(Path, sys.argv[1:]):",
        "    print(folder.name, error(load_model(folder)(IDS), folder.name))",
    ])  # fmt: skip
    folders = [str(tmp_path / name) for name in QUANTIZED]
    done = subprocess.run([sys.executable, "-c", script, *folders], capture_output=True, text=True,
                          cwd=Path(__file__).parent)  # fmt: skip
    assert done.stdout.splitlines() == [f"{name} 0.0" for name in QUANTIZED], done.stderr


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_folders_are_saved_as_mlx_lm_saved_them(tmp_path, name):
    save_model(load_model(write_folder(tmp_path / "old", name)), tmp_path / "new")
    saved = mx.load(str(tmp_path / "new/model.safetensors"))
    stored = tensors_of(name)
    assert saved.keys() == stored.keys()
    assert all(mx.array_equal(saved[key], stored[key]) for key in stored)
    assert all(saved[key].dtype == stored[key].dtype for key in stored)
    config = json.loads((tmp_path / "new/config.json").read_text())
    paths = {key.rpartition(".")[0] for key in stored if key.endswith(".scales")}
    expected = CASES[name]["config"]["quantization"]
    # mlx-lm also writes settings of layers that it did not quantize.
    kept = {
        key: each for key, each in expected.items() if each and (key in paths or "." not in key)
    }
    assert config["quantization"] == config["quantization_config"] == kept


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_of_mlx_lm_give_its_logits(tmp_path, name):
    base = write_folder(tmp_path / "base", name.removeprefix("adapter_"))
    model = load(write_adapter(tmp_path / "adapter", name, base))
    assert error(model(IDS), name) < 1e-4
    assert mx.abs(model(IDS) - load(base)(IDS)).max() > 0.1


# Weights in several files.


def split(folder: Path) -> dict[str, str]:
    """Write the weights into two files with an index; return the file of each tensor."""
    tensors = mx.load(str(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        part = {name: tensors[name] for name in names if places[name] == file}
        mx.save_safetensors(str(folder / file), part)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return places


def test_only_the_files_that_the_index_names_are_read(tmp_path):
    folder = write_folder(tmp_path, "llama")
    split(folder)
    shutil.copy(
        write_folder(tmp_path / "other", "qwen3") / "model.safetensors",
        folder / "model-00003-of-00003.safetensors",
    )
    assert error(load(folder)(IDS), "llama") < 1e-4


def test_only_the_tensors_that_the_index_names_are_read(tmp_path):
    folder = write_folder(tmp_path, "llama")
    split(folder)
    file = str(folder / "model-00002-of-00002.safetensors")
    stale = {"stale.weight": mx.ones(3), "lm_head.weight": mx.ones((48, 32))}
    mx.save_safetensors(file, stale | dict(mx.load(file)))
    assert error(load(folder)(IDS), "llama") < 1e-4


def test_a_stale_single_file_beside_an_index_is_refused(tmp_path):
    folder = write_folder(tmp_path, "llama")
    split(folder)
    shutil.copy(write_folder(tmp_path / "b", "llama") / "model.safetensors", folder)
    with pytest.raises(ValueError, match=r"that does not name it; delete the older one$"):
        load(folder)


def test_a_tensor_that_is_not_where_the_index_says_is_named(tmp_path):
    folder = write_folder(tmp_path, "llama")
    places = split(folder) | {"lm_head.weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors has no lm_head.weight"):
        load(folder)


def test_an_index_does_not_lead_out_of_the_folder(tmp_path):
    folder = write_folder(tmp_path, "llama")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"'../elsewhere.safetensors' is not the name of a file"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pytorch_model.bin", "has no model.safetensors; pytorch_model.bin is a pickle, which is"),
        ("consolidated.00.pth", "has no model.safetensors; consolidated.00.pth is a pickle"),
        ("model.gguf", "has no model.safetensors; model.gguf is of llama.cpp; get the"),
    ],
)
def test_other_formats_are_refused_with_advice(tmp_path, file, message):
    folder = write_folder(tmp_path, "llama")
    (folder / "model.safetensors").rename(folder / file)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{folder} {message}")):
        load(folder)


# Configs.


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("llama", {"model_type": "gemma3"}, "model_type 'gemma3' is not supported here, only "),
        ("llama", {"model_type": "gemma3"}, "; mlx_lm loads many others"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu' changes the computation"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved True changes the computation"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
         "rope_type 'dynamic' is not supported, only default, linear, llama3, yarn"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}},
         "RoPE of type llama3 needs low_freq_factor, high_freq_factor"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2, "beta": 1}},
         "RoPE of type linear has no beta"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
         "RoPE of type default has no full_attention"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ("llama", {"sliding_window": 8}, "sliding_window is not part of a llama model"),
        ("llama", {"num_key_value_heads": 3}, "must be a multiple of num_key_value_heads, got 4"),
        ("llama", {"hidden_size": REMOVED}, "required, but not given: hidden_size"),
        ("llama", {"vocab_size": "48"}, "vocab_size must be a positive integer, got '48'"),
        ("llama", {"head_dim": 7}, "head_dim must be even, got 7"),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention"]},
         "layer_types contradict the sliding_window of mistral"),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention"]},
         "layer_types must list 2 of full_attention, sliding_attention"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must list 4 layers"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "changes the computation"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights False changes the computation"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention True changes the computation"),
        ("gpt2", {"activation_function": "tanh"}, "activation_function 'tanh' is not supported"),
        ("llama", {"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}},
         "quantization: mode 'mxfp4' is not supported, only affine; mlx_lm loads it"),
        ("llama", {"quantization": {"group_size": 64, "bits": 4, "lm_head": {"mode": "nvfp4"}}},
         "quantization of lm_head: mode 'nvfp4' is not supported"),
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}},
         "quantized by gptq, which is not supported"),
    ],
)  # fmt: skip
def test_what_would_compute_something_else_is_refused(tmp_path, case, changes, message):
    folder = write_folder(tmp_path, case, "config", changes)
    with pytest.raises(ValueError, match=re.escape(message)) as found:
        load(folder)
    assert str(found.value).startswith(f"{folder / 'config.json'}: ")
    assert "\n" not in str(found.value)


def test_numbers_that_transformers_tags_are_read(tmp_path):
    changes = {"rms_norm_eps": {"__float__": "Infinity"}}
    config = read_model_config(write_folder(tmp_path, "llama", "config", changes))
    assert config.rms_norm_eps == float("inf")


def test_keys_that_are_not_used_are_named_in_the_log_and_kept(tmp_path, caplog):
    folder = write_folder(
        tmp_path / "old", "llama", "config", {"my_key": [1], "eos_token_id": [1, 2]}
    )
    with caplog.at_level(logging.WARNING):
        model = load(folder)
    assert caplog.messages == ["config.json: not used: my_key"]
    save_model(model, tmp_path / "new")
    saved = json.loads((tmp_path / "new/config.json").read_text())
    assert (saved["my_key"], saved["eos_token_id"]) == ([1], [1, 2])


def test_windows_of_qwen_hold_only_if_they_are_switched_on(tmp_path):
    on = read_model_config(write_folder(tmp_path, "qwen2_window"))
    assert on.layer_windows == (NO_WINDOW, 6)
    off = {"use_sliding_window": False, "layer_types": REMOVED}
    assert read_model_config(write_folder(tmp_path, "qwen2_window", "config", off)).windows == ()


# Saving.


@pytest.mark.parametrize("name", PLAIN)
def test_a_saved_model_has_the_names_shapes_and_numbers_of_transformers(tmp_path, name):
    save_model(load_model(write_folder(tmp_path / "old", name)), tmp_path / "new")
    saved = mx.load(str(tmp_path / "new/model.safetensors"))
    # GPT-2 is saved without a prefix, which transformers reads too.
    stored = {key.removeprefix("transformer."): each for key, each in tensors_of(name).items()}
    assert {key: each.shape for key, each in saved.items()} == {
        key: each.shape for key, each in stored.items()
    }
    assert all(mx.array_equal(saved[key], stored[key]) for key in stored)
    config = json.loads((tmp_path / "new/config.json").read_text())
    keys = {key for key, each in CASES[name]["v4"].items() if each is not None}
    assert keys - config.keys() <= {"transformers_version", "max_window_layers",
                                    "no_rope_layer_interval"}  # fmt: skip
    same = (keys & config.keys()) - {"rope_scaling", "torch_dtype"}
    assert {key: config[key] for key in same} == {key: CASES[name]["v4"][key] for key in same}
    assert config["dtype"] == "bfloat16"
    again = load_model(tmp_path / "new")
    assert read_model_config(tmp_path / "new") == read_model_config(tmp_path / "old")
    assert mx.array_equal(again(IDS), load_model(tmp_path / "old")(IDS))
