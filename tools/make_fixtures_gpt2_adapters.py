"""Write tests/fixtures/gpt2_adapters: adapters of GPT-2 as PEFT and mlx-lm save them, with logits.

    python tools/make_fixtures_gpt2_adapters.py

The base is the case "gpt2" of tests/decoder_folders.py, in float32. GPT-2's matrices are `Conv1D`
(in, out) in transformers, which PEFT calls `fan_in_fan_out`, and linear layers under "model." in
mlx-lm. Made with torch 2.13.0, transformers 5.23.0, peft 0.21.2 and mlx-lm 0.32.2.
"""

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

TESTS = Path(__file__).parents[1] / "packages/mlx-gpt/tests"
sys.path.append(str(TESTS))

from decoder_folders import IDS, tensors_of, write_folder  # noqa: E402

PEFT = {
    "peft_lora": {"target_modules": ["c_attn", "c_proj", "c_fc"], "lora_alpha": 6},
    "peft_dora": {"target_modules": ["attn.c_proj", "c_fc"], "use_dora": True, "lora_alpha": 6},
    "peft_head": {"target_modules": ["c_attn"], "modules_to_save": ["ln_f"], "use_rslora": True},
}
MLX_LM = {
    "mlx_lm_lora": {"rank": 3, "scale": 5.0, "dropout": 0.0, "keys": ["attn.c_attn", "mlp.c_fc"]},
    "mlx_lm_dora": {"rank": 2, "scale": 4.0, "dropout": 0.0, "keys": ["attn.c_proj"]},
    "mlx_lm_embedding": {"rank": 2, "scale": 1.0, "dropout": 0.0,
                         "keys": ["attn.c_proj", "model.wte"]},
}  # fmt: skip


def main() -> None:
    target = TESTS / "fixtures/gpt2_adapters"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with tempfile.TemporaryDirectory() as temporary:
        base = write_folder(Path(temporary) / "base", "gpt2")
        logits = {name: peft_adapter(base, target / name, each) for name, each in PEFT.items()}
        # mlx-lm reads OpenAI's names only, and needs a key that transformers no longer writes.
        named = {
            name.removeprefix("transformer."): each for name, each in tensors_of("gpt2").items()
        }
        base = write_folder(Path(temporary) / "old", "gpt2", changes={"n_ctx": 40}, tensors=named)
        logits |= {name: mlx_lm_adapter(base, target / name, each) for name, each in MLX_LM.items()}
    mx.save_safetensors(str(target / "logits.safetensors"), logits)


def peft_adapter(base: Path, folder: Path, settings: dict) -> mx.array:
    """Save a random adapter of PEFT; return its logits of every second token."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, fan_in_fan_out=True, task_type="CAUSAL_LM", **settings)
    model = get_peft_model(_torch_model(base), config)
    with torch.no_grad():
        for each in model.parameters():
            if each.requires_grad:
                each.add_(0.3 * torch.randn(each.shape))
    model.eval().save_pretrained(folder)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    values = json.loads(path.read_text()) | {"base_model_name_or_path": "gpt2"}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    again = PeftModel.from_pretrained(_torch_model(base), folder).eval()
    logits = _torch_logits(model)
    assert torch.equal(logits, _torch_logits(again))
    return mx.array(logits[:, ::2].numpy())


def _torch_model(base: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def _torch_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(np.array(IDS)).long()).logits


def mlx_lm_adapter(base: Path, folder: Path, parameters: dict) -> mx.array:
    """Save a random adapter of the last layer as `mlx_lm.lora` does; return its logits."""
    model = _mlx_model(base)
    model.freeze()
    linear_to_lora_layers(model, 1, parameters, use_dora="dora" in folder.name)
    random = np.random.default_rng(0)
    trained = {
        name: each + mx.array(random.normal(0, 0.2, each.shape).astype(np.float32))
        for name, each in tree_flatten(model.trainable_parameters())
    }
    model.update(tree_unflatten(list(trained.items())))
    folder.mkdir()
    kind = "dora" if "dora" in folder.name else "lora"
    config = {"fine_tune_type": kind, "num_layers": 1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=4) + "\n")
    mx.save_safetensors(str(folder / "adapters.safetensors"), trained)
    logits = model(IDS)
    assert mx.array_equal(logits, load_adapters(_mlx_model(base), str(folder))(IDS))
    return logits[:, ::2]


def _mlx_model(base: Path):
    model, _ = load_model(base)
    model.set_dtype(mx.float32)
    return model


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
