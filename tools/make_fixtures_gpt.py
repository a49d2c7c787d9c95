"""Make the parity fixtures of mlx-gpt's nanochat models with nanochat, mlx-lm and transformers.

Run in an environment with torch, filelock, mlx-lm, transformers and a clone of
https://github.com/karpathy/nanochat, as the fixtures were made at
92d63d4e8bb4df75c3b71618f31ddde2378b2bcd:

    python tools/make_fixtures_gpt.py --nanochat PATH

fixtures/nanochat/          a checkpoint of July 2026 (the model of the clone's work tree), with
                            logits, loss and gradients
fixtures/nanochat_2025/     a checkpoint of the family before January 2026 (the model of commit
                            2c4473d), compiled and with bfloat16 embeddings, and its logits
fixtures/mlx_lm/            a folder as mlx-lm writes that family, and mlx-lm's logits
fixtures/transformers/      a folder as transformers writes it, and transformers' logits

All is computed in float32 on the CPU; the older model, which has its rotary tables in bfloat16
without need, is made to have them in float32 too. Made with torch 2.13.0, mlx-lm 0.32.0 and
transformers 5.23.0.
"""

import argparse
import json
import os
import subprocess
import sys
import types
from pathlib import Path

os.environ["NANOCHAT_DTYPE"] = "float32"

import mlx.core as mx
import mlx_lm.models.nanochat as mlx_lm_nanochat
import mlx_lm.utils
import numpy as np
import torch
from mlx.utils import tree_flatten, tree_unflatten
from transformers import NanoChatConfig, NanoChatForCausalLM

FOLDER = Path(__file__).parents[1] / "packages/mlx-gpt/tests/fixtures"
COMMIT_2025 = "2c4473d"

# More tokens than a short window has, which is at least 128; rows that are no tokens.
CONFIG = {
    "sequence_len": 160,
    "vocab_size": 70,
    "n_layer": 3,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 24,
    "window_pattern": "SSL",
}
# Bytes and nanochat's nine special tokens: as small as a tokenizer can be.
CONFIG_2025 = {
    "sequence_len": 64,
    "vocab_size": 265,
    "n_layer": 2,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 16,
}
# One or more of each kind of parameter.
WITH_GRADIENTS = [
    "transformer.wte.weight",
    "lm_head.weight",
    "value_embeds.2.weight",
    "transformer.h.0.attn.c_q.weight",
    "transformer.h.0.attn.ve_gate.weight",
    "transformer.h.1.attn.c_k.weight",
    "transformer.h.1.mlp.c_proj.weight",
    "transformer.h.2.attn.c_v.weight",
    "resid_lambdas",
    "x0_lambdas",
    "smear_gate.weight",
    "smear_lambda",
    "backout_lambda",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nanochat", required=True, type=Path, help="a clone of nanochat")
    clone = parser.parse_args().nanochat
    sys.path.insert(0, str(clone))
    make_nanochat(FOLDER / "nanochat")
    make_nanochat_2025(FOLDER / "nanochat_2025", clone)
    make_mlx_lm(FOLDER / "mlx_lm")
    make_transformers(FOLDER / "transformers")


def make_nanochat(folder: Path) -> None:
    from nanochat.gpt import GPT, GPTConfig

    model = GPT(GPTConfig(**CONFIG))
    model.init_weights()
    randomize(model, seed=1)
    ids, targets = tokens(2, seed=2)
    with torch.no_grad():
        logits = model(ids)
    loss = model(ids, targets)
    loss.backward()
    gradients = dict(model.named_parameters())
    save_checkpoint(folder, 10, model.state_dict(), CONFIG)
    save_arrays(
        folder / "expected.safetensors",
        {
            "ids": ids,
            "targets": targets,
            # Enough to see every window, and a fixture below 200 kB.
            "logits": logits[:, ::7],
            "loss": loss,
            **{f"gradients.{name}": gradients[name].grad for name in WITH_GRADIENTS},
        },
    )


def make_nanochat_2025(folder: Path, clone: Path) -> None:
    gpt = nanochat_2025(clone)
    model = gpt.GPT(gpt.GPTConfig(**CONFIG_2025))
    model.init_weights()
    randomize(model, seed=3)
    wte = model.transformer.wte.weight
    wte.data = wte.data.bfloat16().float()
    ids, _ = tokens(2, seed=4, length=48, vocabulary=265)
    with torch.no_grad():
        logits = model(ids)[:, ::4]
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    state["_orig_mod.transformer.wte.weight"] = wte.data.bfloat16()
    save_checkpoint(folder, 5, state, CONFIG_2025)
    save_arrays(folder / "expected.safetensors", {"ids": ids, "logits": logits})


def nanochat_2025(clone: Path) -> types.ModuleType:
    """Return nanochat's model file as it was, without the optimizers it imports."""
    command = ["git", "-C", str(clone), "show", f"{COMMIT_2025}:nanochat/gpt.py"]
    source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    source = source.replace("cos.bfloat16(), sin.bfloat16()", "cos, sin")
    source = source.replace("self.cos.dtype == torch.bfloat16", "self.cos.dtype == torch.float32")
    for name, classes in {"muon": ("Muon", "DistMuon"), "adamw": ("DistAdamW",)}.items():
        module = types.ModuleType(f"nanochat.{name}")
        module.__dict__.update(dict.fromkeys(classes))
        sys.modules[module.__name__] = module
    gpt = types.ModuleType("gpt_2025")
    sys.modules[gpt.__name__] = gpt
    exec(compile(source, "gpt_2025.py", "exec"), gpt.__dict__)
    return gpt


def make_mlx_lm(folder: Path) -> None:
    args = mlx_lm_nanochat.ModelArgs(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=70,
        max_position_embeddings=64,
        intermediate_size=64,
        rope_theta=10000.0,
    )
    model = mlx_lm_nanochat.Model(args)
    rng = np.random.default_rng(5)
    shapes = {name: array.shape for name, array in tree_flatten(model.parameters())}
    weights = [(name, mx.array(random(rng, shape))) for name, shape in shapes.items()]
    model.update(tree_unflatten(weights))
    ids = mx.array(rng.integers(0, 70, (2, 48)))
    folder.mkdir(parents=True, exist_ok=True)
    mlx_lm.utils.save_model(folder, model)
    mlx_lm.utils.save_config(dict(vars(args)), folder / "config.json")
    mx.save_safetensors(
        str(folder / "expected.safetensors"), {"ids": ids.astype(mx.int32), "logits": model(ids)}
    )


def make_transformers(folder: Path) -> None:
    config = NanoChatConfig(
        vocab_size=70,
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = NanoChatForCausalLM(config).eval()
    randomize(model, seed=6)
    ids, _ = tokens(2, seed=7, length=48)
    with torch.no_grad():
        logits = model(ids).logits
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    save_arrays(folder / "expected.safetensors", {"ids": ids, "logits": logits})


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Draw all weights, also those that nanochat begins with zeros."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data = torch.from_numpy(random(rng, tuple(parameter.shape)))


def random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    sigma = 0.5 if len(shape) == 1 else shape[-1] ** -0.5
    return (sigma * rng.normal(size=shape)).astype(np.float32)


def tokens(
    batch: int, seed: int, length: int = 160, vocabulary: int = 70
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids, and targets of which a fifth is not to be predicted."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, vocabulary, (batch, length + 1))
    targets = np.where(rng.random((batch, length)) < 0.2, -1, rows[:, 1:])
    return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(targets)


def save_checkpoint(folder: Path, step: int, state: dict, config: dict) -> None:
    """Write what nanochat's `save_checkpoint` does."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"model_{step:06d}.pt")
    meta = {"step": step, "val_bpb": 1.5, "model_config": config}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta, indent=2) + "\n")


def save_arrays(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    arrays = {name: mx.array(tensor.detach().numpy()) for name, tensor in tensors.items()}
    small = {
        name: array.astype(mx.int32) if array.dtype == mx.int64 else array
        for name, array in arrays.items()
    }
    mx.save_safetensors(str(path), small)


if __name__ == "__main__":
    main()
