"""Adapters in the encoder of a run: what is adapted, and the pretrained encoder it needs again."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_encoders import EncoderModel, find_folder, load_model, quantize
from mlx_kaggle import RunError
from mlx_kaggle.settings.config import RunConfig
from mlx_lora import PRESETS, LoraConfig, add_adapter, preset

ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
# Small in time, large in accuracy: the tables of words and positions stay in float.
_NOT_QUANTIZED = (r"embedding", r"^encoder$")


def adapt(encoder: EncoderModel, config: RunConfig, seed: int) -> None:
    """Quantize a pretrained encoder as configured, and give it a new adapter."""
    lora = config.lora
    chosen = lora_config(encoder, config)
    form = _quantization(config)
    if form:
        quantize(encoder, skip=_NOT_QUANTIZED, **form)
    add_adapter(encoder, chosen, key=mx.random.key(seed))
    encoder.gradient_checkpointing = PRESETS[lora.preset].gradient_checkpointing


def lora_config(encoder: EncoderModel, config: RunConfig) -> LoraConfig:
    """Return the configuration of the adapter: the preset, and the settings that differ from it."""
    lora = config.lora
    changes: dict[str, Any] = {"target_modules": list(lora.targets)} if lora.targets else {}
    if config.encoder.freeze == "half":
        layers = encoder.config.num_hidden_layers
        changes["layers_to_transform"] = list(range(layers // 2, layers))
    found = preset(lora.preset, encoder, **changes).config
    rank = lora.r or found.r
    return replace(
        found,
        r=rank,
        lora_alpha=2 * rank if lora.alpha is None else lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        init_lora_weights=True if lora.init == "kaiming" else lora.init,
        base_model_name_or_path=config.encoder.path,
    )


def adapter_rate(config: RunConfig, path: str) -> float:
    """Return the multiplier of the rate of a parameter: 1 if it is none of an adapter."""
    if ".adapters." not in path:
        return 1.0
    is_b = ".lora_B." in path or path.endswith("lora_magnitude_vector")
    return config.lora.rate * (config.lora.plus_ratio if is_b else 1.0)


def _quantization(config: RunConfig) -> dict[str, Any] | None:
    """Return bits and group size of the encoder's matrices; `None` if they are not quantized."""
    form = PRESETS[config.lora.preset].quantization
    bits = config.encoder.quantize
    if bits is None:
        return form
    return {"group_size": 64, **(form or {}), "bits": bits}


@dataclass(frozen=True)
class Base:
    """The pretrained encoder that an adapter was trained on, by its path and weights."""

    path: str
    """Its folder, or hub id."""
    sha256: str
    """Of its weight files."""
    quantization: dict[str, Any] | None
    """Arguments of `quantize`."""

    @classmethod
    def of(cls, config: RunConfig) -> "Base":
        """Return that of a configuration."""
        path = config.encoder.path
        name = str(Path(path).resolve()) if Path(path).exists() else path
        return cls(name, _hash(find_folder(path)), _quantization(config))

    def load(self, member: Path) -> EncoderModel:
        """Return the encoder. `RunError` if it is gone or has changed; `member` is named."""
        try:
            folder = find_folder(self.path)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{member} has an adapter of the encoder {self.path}, which cannot be read "
                f"({error}); put the encoder back"
            ) from error
        if _hash(folder) != self.sha256:
            raise RunError(
                f"{member} has an adapter of the encoder {self.path}, whose weights have changed "
                f"since the training; put the former encoder back, or train again"
            )
        encoder, _ = load_model(folder)
        if self.quantization:
            quantize(encoder, skip=_NOT_QUANTIZED, **self.quantization)
        return encoder


def _hash(folder: Path) -> str:
    """Return a hash of the weight files of a folder, by name and content."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        found.update(path.name.encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
