"""Folders of the small models of tools/make_fixtures_decoders.py."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
CASES: dict[str, dict] = json.loads((FIXTURES / "decoders.json").read_text())
ROPES: dict[str, dict] = CASES.pop("ropes")
EXPECTED: dict[str, mx.array] = mx.load(str(FIXTURES / "decoders.safetensors"))  # type: ignore
IDS = EXPECTED["ids"]
QUANTIZED = [name for name in CASES if name.startswith("mlx_lm_")]
ADAPTERS = [name for name in CASES if name.startswith("adapter_")]
PLAIN = [name for name in CASES if name not in QUANTIZED + ADAPTERS]


def tensors_of(case: str) -> dict[str, mx.array]:
    """Return the tensors of the file of a case, in bfloat16 unless quantized."""
    if case in QUANTIZED:
        return {name: EXPECTED[f"{case}/{name}"] for name in CASES[case]["shapes"]}
    return {
        name: _weight(f"{case}/{name}", shape).astype(mx.bfloat16)
        for name, shape in CASES[case]["shapes"].items()
    }


def _weight(seed: str, shape: list[int]) -> mx.array:
    random = np.random.default_rng(zlib.crc32(seed.encode()))
    is_norm = ("norm" in seed or "ln_" in seed) and seed.endswith("weight")
    values = (is_norm + random.normal(0, 0.25, shape)).astype(np.float32)
    return mx.array(values)


def write_folder(
    folder: Path,
    case: str,
    dialect: str = "config",
    changes: Mapping[str, object] | None = None,
    tensors: Mapping[str, mx.array] | None = None,
) -> Path:
    """Write the folder of a case; `changes` of None remove a key of the config."""
    folder.mkdir(parents=True, exist_ok=True)
    values = CASES[case][dialect] | dict(changes or {})
    values = {key: each for key, each in values.items() if (changes or {}).get(key, 0) is not None}
    (folder / "config.json").write_text(json.dumps(values))
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        dict(tensors_of(case) if tensors is None else tensors),
        metadata={"format": "pt"},
    )
    return folder


def write_adapter(folder: Path, case: str, base: Path) -> Path:
    """Write an adapter as mlx-lm does, for the model in `base`."""
    folder.mkdir(parents=True)
    config = CASES[case]["config"] | {"model": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {name: _weight(f"{case}/{name}", shape)
               for name, shape in CASES[case]["shapes"].items()}  # fmt: skip
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    return folder


def error(logits: mx.array, case: str) -> float:
    """Return the largest difference from the expected logits, which are of every second token."""
    return float(mx.abs(logits[:, ::2] - EXPECTED[f"{case}/logits"]).max())
