"""Make the parity fixtures of mlx-gpt's Llama family and GPT-2 with transformers and mlx-lm.

Run in an environment with torch, transformers and mlx-lm:

    python tools/make_fixtures_decoders.py

Writes packages/mlx-gpt/tests/fixtures/decoders.safetensors and decoders.json. Of each case the JSON
has `config.json` as transformers 5 writes it, `v4` as version 4 wrote it, and the names and shapes
of the tensors, whose values are those of `make_weight`; the other file has the float32 logits of
every second token under "CASE/logits", and under "rope/..." the frequencies and attention factor
of `ROPES`, whose parameters are in the JSON. Cases named `mlx_lm_...` are folders that mlx-lm
quantized, with their tensors and mlx-lm's logits; `adapter_...` are adapters as mlx-lm saves them,
and its logits. Made with torch 2.13.0, transformers 5.23.0 and mlx-lm 0.32.2.
"""

import json
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model, quantize_model, save_config, save_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FIXTURES = Path(__file__).parents[1] / "packages/mlx-gpt/tests/fixtures"
TOKENS = 24  # more than each window, in two rows

SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
DEEPSEEK = {"mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 16, "truncate": False}
GQA = SIZES | {"num_key_value_heads": 2}
GPT2_SIZES = {"vocab_size": 48, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}
CASES = {
    "llama": LlamaConfig(**SIZES),
    "llama_gqa_head_dim": LlamaConfig(**GQA, head_dim=16, rms_norm_eps=1e-5),
    "llama_biases": LlamaConfig(**GQA, attention_bias=True, mlp_bias=True),
    "llama_tied": LlamaConfig(**GQA, tie_word_embeddings=True, rope_theta=100_000.0),
    "llama3": LlamaConfig(**GQA, rope_theta=500_000.0, rope_scaling=LLAMA3),
    "llama_linear": LlamaConfig(**GQA, rope_scaling={"rope_type": "linear", "factor": 3.0}),
    "llama_yarn": LlamaConfig(**GQA, rope_scaling=YARN),
    "llama_yarn_mscale": LlamaConfig(**GQA, rope_scaling=YARN | DEEPSEEK),
    "mistral": MistralConfig(**GQA, sliding_window=7),
    "mistral_full": MistralConfig(**GQA, sliding_window=None, head_dim=16),
    "qwen2": Qwen2Config(**GQA, rope_theta=1e6, tie_word_embeddings=True),
    "qwen2_window": Qwen2Config(
        **GQA, use_sliding_window=True, sliding_window=7, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**GQA, head_dim=16, tie_word_embeddings=True),
    "smollm3": SmolLM3Config(**GQA | {"num_hidden_layers": 4}),
    "gpt2": GPT2Config(**GPT2_SIZES, **ENDS),
    "gpt2_inner": GPT2Config(**GPT2_SIZES, **ENDS, n_inner=40, activation_function="gelu"),
}
# As published, with heads of 128 numbers, and variants of these.
REAL_SIZES = {"hidden_size": 256, "num_attention_heads": 2, "max_position_embeddings": 131_072}
LONG = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
        "original_max_position_embeddings": 32_768}  # fmt: skip
LLAMA31 = LLAMA3 | {"rope_theta": 500_000.0, "original_max_position_embeddings": 8192}
ROPES = {
    "llama31": LLAMA31,
    "llama32": LLAMA31 | {"factor": 32.0},
    "qwen25": LONG,
    "yarn_untruncated": LONG | {"truncate": False, "beta_fast": 20, "beta_slow": 2},
    "yarn_factor": LONG | {"attention_factor": 0.8},
    "yarn_mscale": LONG | {"mscale": 0.7, "mscale_all_dim": 1.1},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
}
QUANTIZED = {"llama_gqa_head_dim": (4, 32), "qwen3": (8, 32), "gpt2": (4, 32)}


def main() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 48, (2, TOKENS))
    arrays: dict[str, torch.Tensor] = {"ids": ids.int()}
    described = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, config in CASES.items():
            folder = Path(temporary, name)
            described[name] = make_case(name, config, ids, folder, arrays)
        for name, (bits, group_size) in QUANTIZED.items():
            folder, target = Path(temporary, name), Path(temporary, f"mlx_lm_{name}")
            quantize(folder, target, bits, group_size)
            described[target.name] = describe_quantized(target, ids, arrays)
        for base in ("llama3", "mlx_lm_qwen3"):
            described[f"adapter_{base}"] = make_adapter(Path(temporary, base), base, ids, arrays)
    for name, parameters in ROPES.items():
        config = LlamaConfig(**REAL_SIZES, rope_parameters=dict(parameters))
        radians, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
        arrays[f"rope/{name}"] = torch.cat([radians, torch.tensor([factor])])
    save_file(arrays, FIXTURES / "decoders.safetensors", metadata={"format": "pt"})
    described["ropes"] = ROPES
    lines = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in described.items()]
    (FIXTURES / "decoders.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def make_case(name, config, ids, folder: Path, arrays: dict) -> dict:
    """Save a random model in bfloat16; keep its logits in float32."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for key, parameter in model.named_parameters():
        weight = torch.from_numpy(make_weight(f"{name}/{key}", parameter.shape))
        parameter.data = weight.bfloat16().float()
    with torch.no_grad():
        arrays[f"{name}/logits"] = model(ids).logits[:, ::2].contiguous()
    model.bfloat16().save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
    return {"config": values, "v4": older_dialect(values), "shapes": shapes}


def make_weight(seed: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return random numbers that depend on the text only; the tests make the same."""
    random = np.random.default_rng(zlib.crc32(seed.encode()))
    is_norm = ("norm" in seed or "ln_" in seed) and seed.endswith("weight")
    return (is_norm + random.normal(0, 0.25, shape)).astype(np.float32)


def older_dialect(config: dict) -> dict:
    """Return a config as transformers 4 wrote it."""
    values = dict(config, torch_dtype=config["dtype"], transformers_version="4.46.0")
    del values["dtype"]
    rope = dict(values.pop("rope_parameters", {}))
    if rope:
        values["rope_theta"] = rope.pop("rope_theta")
        scaling = {key: value for key, value in rope.items() if key != "rope_type"}
        # Old files have `type`; it was renamed for llama3.
        key = "rope_type" if rope["rope_type"] == "llama3" else "type"
        values["rope_scaling"] = {key: rope["rope_type"], **scaling} if scaling else None
    if config["model_type"] in ("qwen2", "qwen3"):
        values.pop("layer_types")
        values.setdefault("max_window_layers", 28)
    return values


def quantize(folder: Path, target: Path, bits: int, group_size: int) -> None:
    """Quantize as `mlx_lm.convert -q`, one layer differently and one not at all."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(older_dialect(values) | {"n_ctx": 40}))
    if values["model_type"] == "gpt2":  # mlx-lm does not know the prefix
        tensors = load_file(folder / "model.safetensors")
        kept = {key.removeprefix("transformer."): each for key, each in tensors.items()}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    model, config = load_model(folder)

    def form(path: str, layer) -> bool | dict:
        if not hasattr(layer, "to_quantized") or "0.mlp" in path:
            return False
        if "1.mlp" in path:
            return {"group_size": 32, "bits": 8 if bits == 4 else 4, "mode": "affine"}
        # Layers of 40 inputs cannot be quantized in groups of 32.
        return layer.weight.shape[-1] % group_size == 0

    def divisible(path: str, layer) -> bool | dict:
        return layer.weight.shape[-1] % group_size == 0 and form(path, layer)

    model, config = quantize_model(model, config, group_size, bits, quant_predicate=divisible)
    target.mkdir()
    save_model(target, model)
    save_config(config, target / "config.json")


def describe_quantized(folder: Path, ids: torch.Tensor, arrays: dict) -> dict:
    model, _ = load_model(folder)
    logits = model(mx.array(ids.numpy().astype(np.int32))).astype(mx.float32)
    arrays[f"{folder.name}/logits"] = torch.from_numpy(np.array(logits[:, ::2]))
    tensors = load_file(folder / "model.safetensors")
    arrays.update({f"{folder.name}/{key}": tensor for key, tensor in tensors.items()})
    config = json.loads((folder / "config.json").read_text())
    return {"config": config, "shapes": {key: list(each.shape) for key, each in tensors.items()}}


def make_adapter(folder: Path, base: str, ids: torch.Tensor, arrays: dict) -> dict:
    """Put a random LoRA on a model as `mlx_lm.lora` does, and keep its tensors and logits."""
    values = json.loads((folder / "config.json").read_text())
    if "v4" not in values and "rope_parameters" in values:  # mlx-lm does not read it
        (folder / "config.json").write_text(json.dumps(older_dialect(values)))
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)  # in bfloat16 the order of roundings matters
    model.freeze()
    parameters = {"rank": 3, "scale": 5.0, "dropout": 0.0,
                  "keys": ["self_attn.q_proj", "self_attn.o_proj"]}  # fmt: skip
    linear_to_lora_layers(model, 1, parameters)
    trained = {
        key: mx.array(make_weight(f"adapter_{base}/{key}", each.shape))
        for key, each in tree_flatten(model.trainable_parameters())
    }
    model.update(tree_unflatten(list(trained.items())))
    logits = model(mx.array(ids.numpy().astype(np.int32))).astype(mx.float32)
    arrays[f"adapter_{base}/logits"] = torch.from_numpy(np.array(logits[:, ::2]))
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    return {"config": config, "shapes": {key: list(each.shape) for key, each in trained.items()}}


if __name__ == "__main__":
    main()
