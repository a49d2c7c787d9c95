"""Compare a GGUF file of llama.cpp with the exported folder that it was made from.

    mlx-gpt export MODEL --output MODEL-hf
    python llama.cpp/convert_hf_to_gguf.py MODEL-hf --outfile model.gguf --outtype f32
    python tools/check_gguf.py MODEL-hf model.gguf

Needs gguf and safetensors. Each tensor of the folder must be in the file, under llama.cpp's name,
with the numbers of the file's type. llama.cpp pairs the halves of Llama's heads for its rotary
embeddings, and stores GPT-2's matrices transposed. A tied head is written once, or twice. On 28
November 2026 all 21 tensors of a Llama and 28 of a GPT-2 of two layers, with GPT-2's vocabulary,
were equal in f32 and, rounded, in f16 (converter of llama-cpp-python 0.3.36, gguf 0.19.0).
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

CONV1D = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


def main(folder: Path, file: Path) -> int:
    """Print what differs; return 1 if anything does."""
    config = json.loads((folder / "config.json").read_text())
    layers = config.get("num_hidden_layers") or config["n_layer"]
    architecture = gguf.MODEL_ARCH.GPT2 if "n_layer" in config else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(architecture, layers)
    found = {each.name: each for each in gguf.GGUFReader(file).tensors}
    wrong = []
    tensors = load_file(folder / "model.safetensors")
    for name, array in tensors.items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs not in found:
            wrong.append(f"{name}: {theirs} is not in the file")
            continue
        each = found.pop(theirs)
        expected = _as_llama_cpp(name, array, config).astype(each.data.dtype)
        if each.data.shape != expected.shape or not np.array_equal(each.data, expected):
            wrong.append(f"{name}: other numbers in {theirs}")
    wrong += [f"{name}: only in the file" for name in found if name != "output.weight"]
    print("\n".join(wrong) or f"{len(tensors)} tensors are equal")
    return int(bool(wrong))


def _as_llama_cpp(name: str, array: np.ndarray, config: dict) -> np.ndarray:
    if name.endswith(CONV1D) and "n_layer" in config:
        return array.T
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    part = name.split(".")[-2]
    if part not in heads:
        return array
    rows = array.reshape(config[heads[part]], 2, -1, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
