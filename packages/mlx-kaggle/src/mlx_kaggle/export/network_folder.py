"""The folder of one exported network: weights in a format, tokenizer, table-to-text step."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_encoders.export import export_coreml, export_onnx
from mlx_encoders.export.weights import float_weights, with_weights
from mlx_kaggle.export.head_graph import export_head
from mlx_kaggle.export.huggingface import write_huggingface
from mlx_kaggle.members.model import Member
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.competition import Competition
from mlx_lora import merge_and_unload
from mlx_trainer import write_atomic

FORMATS = ("hf", "onnx", "coreml")
# All files that the folder of a network may have, with those inside of a Core ML package.
NETWORK_FILES = (
    "text.json",
    "features.json",
    "scaler.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
    "model.safetensors",
    "head.json",
    "head.safetensors",
    "model.onnx",
    "model.onnx.data",
    "model.mlpackage/Manifest.json",
    "model.mlpackage/Data/com.apple.CoreML/model.mlmodel",
    "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
)


@dataclass(frozen=True)
class Written:
    """What was written, and how it compares with MLX on random inputs, if a graph was."""

    bytes: int
    random_difference: float | None = None
    note: str = ""


def plain_encoder(member: Member) -> Any:
    """Return the encoder with adapters merged and weights as float32; `member` has no more adapter.

    Its outputs are those of the member up to rounding, of quantized products too.
    """
    encoder = member.model.encoder
    if member.base is not None:
        encoder, _ = merge_and_unload(encoder)
    return with_weights(encoder, float_weights(encoder))


def write_network(
    folder: Path, member: Member, config: RunConfig, competition: Competition, kind: str
) -> Written:
    """Write one network. Raises `ValueError` where its graph does not compute what MLX does."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = plain_encoder(member)
    difference, note = None, ""
    if kind == "hf":
        note = write_huggingface(folder, member, encoder, competition)
    elif kind == "onnx":
        head = export_head(member, config, competition)
        difference = export_onnx(encoder, folder / "model.onnx", head=head).max_difference
    else:
        head = export_head(member, config, competition)
        length = config.text.max_tokens
        report = export_coreml(encoder, folder, head=head, length=length)
        difference = report.max_difference
        note = "the program was evaluated by coremltools; Core ML itself has not run it"
    member.tokenizer.save(folder)
    write_json(folder / "text.json", member.text.to_dict())
    linear = member.linear
    fitted = linear.to_dict() if linear else {"features": None, "words": None}
    write_json(folder / "features.json", fitted)
    if member.scaler:
        write_json(folder / "scaler.json", member.scaler.to_dict())
    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    return Written(size, difference, note)


def write_json(path: Path, values: Any) -> None:
    """Write JSON, atomically."""
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8"))
