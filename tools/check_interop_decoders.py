"""Check that transformers and mlx-lm read the folders that mlx-gpt writes.

First with this repository's environment, then with one that has torch, transformers and mlx-lm:

    python tools/check_interop_decoders.py write FOLDER
    python tools/check_interop_decoders.py check FOLDER

`write` saves each model of tests/fixtures/decoders.json again, exports the quantized ones,
quantizes others, and writes adapters in the forms of PEFT and mlx-lm; with its logits in float32.
`check` loads them, prints the largest difference of logits, and exits with 1 if one is above 1e-4.
On 28 November 2026 the largest was 1.4e-5 with transformers 5.23.0, 1.2e-5 with PEFT 0.21.2 and
4.7e-6 with mlx-lm 0.32.2.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

TESTS = Path(__file__).parents[1] / "packages/mlx-gpt/tests"
TOLERANCE = 1e-4
ADAPTED = {"llama3": ["q_proj", "v_proj"], "gpt2": ["c_attn", "c_fc"]}
# Where mlx-lm's own model differs from transformers': windows, mscale and n_inner are ignored.
NOT_MLX_LM = ("mistral", "qwen2_window", "llama_yarn_mscale", "gpt2_inner")


def write(root: Path) -> None:
    sys.path.append(str(TESTS))
    from decoder_folders import CASES, IDS, PLAIN, QUANTIZED, write_folder

    from mlx_gpt.models.adapters import Base, write_adapter
    from mlx_gpt.models.files import load_model, save_model
    from mlx_gpt.models.output import write_model_folder
    from mlx_gpt.models.rewrite import dequantize, quantize
    from mlx_lora import LoraConfig, add_adapter

    def keep(folder: Path, model=None) -> None:
        model = model or load_model(folder, mx.float32)
        mx.save_safetensors(
            str(folder / "expected.safetensors"), {"ids": IDS, "logits": model(IDS)}
        )

    for name in PLAIN + QUANTIZED:
        source = write_folder(root / "source" / name, name)
        save_model(load_model(source), root / name)
        keep(root / name)
        if name in QUANTIZED:
            model = load_model(source)
            dequantize(model, mx.float32)
            write_model_folder(model, source, root / f"exported_{name}")
            keep(root / f"exported_{name}")
    for name in ("llama3", "qwen2", "smollm3", "gpt2"):
        model = load_model(root / name)
        quantize(model, 4, 32)
        save_model(model, root / f"mlx_lm_new_{name}")
        keep(root / f"mlx_lm_new_{name}")
    for base, targets in ADAPTED.items():
        for is_dora in (False, True):
            model = load_model(root / base, mx.float32)
            config = LoraConfig(r=4, target_modules=targets, use_dora=is_dora)
            add_adapter(model, replace(config, fan_in_fan_out=base == "gpt2"))
            model.update(_randomized(model.trainable_parameters()))
            for form in ("peft", "mlx-lm"):
                folder = root / f"adapter_{form}_{'dora' if is_dora else 'lora'}_{base}"
                write_adapter(model, folder, Base(str(root / base)), form)
                keep(folder, model)
    print(f"{len(CASES)} cases, {len(list(root.iterdir())) - 1} folders in {root}")


def _randomized(parameters):
    from mlx.utils import tree_map

    return tree_map(
        lambda each: 0.3 * mx.random.normal(each.shape, key=mx.random.key(0)), parameters
    )


def check(root: Path) -> int:
    worst = 0.0
    for folder in sorted(path.parent for path in root.glob("*/expected.safetensors")):
        expected = mx.load(str(folder / "expected.safetensors"))
        found = {}
        if folder.name.startswith("adapter_"):
            base = root / folder.name.rpartition("_")[2]
            if "_peft_" in folder.name:
                found["PEFT"] = _transformers(base, expected["ids"], folder)
            else:
                found["mlx-lm"] = _mlx_lm(base, expected["ids"], folder)
        else:
            if not folder.name.startswith("mlx_lm_"):
                found["transformers"] = _transformers(folder, expected["ids"])
            if folder.name not in NOT_MLX_LM:
                found["mlx-lm"] = _mlx_lm(folder, expected["ids"])
        for program, logits in found.items():
            difference = float(mx.abs(logits - expected["logits"]).max())
            worst = max(worst, difference)
            print(f"{folder.name:32} {program:12} {difference:.1e}")
    print(f"largest difference {worst:.1e}")
    return int(worst > TOLERANCE)


def _transformers(folder: Path, ids: mx.array, adapter: Path | None = None) -> mx.array:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    model, notes = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    bad = {key: each for key, each in notes.items() if each}
    assert not bad, f"{folder.name}: {json.dumps({k: list(map(str, v)) for k, v in bad.items()})}"
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return mx.array(model(torch.from_numpy(np.array(ids)).long()).logits.numpy())


def _mlx_lm(folder: Path, ids: mx.array, adapter: Path | None = None) -> mx.array:
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    if adapter:
        model = load_adapters(model, str(adapter))
    return model(ids)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["write", "check"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    sys.exit(write(options.folder) if options.what == "write" else check(options.folder))
