"""Load a model for generation: adapters in its weights, fast layers, the author's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.engine.drafts import Speculation, check_draft
from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.models.adapters import apply_adapter, find_adapter, read_base
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.files import find_model_folder, load
from mlx_gpt.models.shards import read_json
from mlx_gpt.tokenizer import AnyTokenizer
from mlx_lora import merge_and_unload
from mlx_lora.layers import AdaptedLayer

GENERATION_CONFIG = "generation_config.json"
_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class EngineOptions:
    """What a command line says about the engine; `ngram` 0 and no `draft_model`: no guesses."""

    adapter: Path | None = None
    kv_bits: int | None = None
    kv_group_size: int = 64
    draft_model: Path | None = None
    num_draft_tokens: int = 4
    ngram: int = 0


def load_engine(folder: Path, options: EngineOptions, tools: bool = True) -> Engine:
    """Return the engine of a model folder, a run or an adapter.

    Raises `ValueError` if the draft model has another tokenizer, and what `load` raises.
    """
    model, tokenizer = load_fast(folder, options.adapter)
    speculation = None
    if options.draft_model:
        draft, draft_tokenizer = load_fast(options.draft_model)
        check_draft(tokenizer, draft_tokenizer)
        speculation = Speculation(options.num_draft_tokens, model=draft)
    elif options.ngram:
        speculation = Speculation(options.num_draft_tokens, options.ngram)
    return Engine(
        model, tokenizer, tools, kv_bits=options.kv_bits, kv_group_size=options.kv_group_size,
        speculation=speculation,
    )  # fmt: skip


def load_fast(folder: Path, adapter: Path | None = None) -> tuple[Decoder, AnyTokenizer]:
    """Load a model as `load`, and prepare it for generation, which changes no weight on disk.

    Adapters are merged if no layer is quantized: two more products a layer cost more than they
    compute. On a CPU quantized weights are also kept in float32, if they fit in a quarter of the
    memory, because MLX's quantized products are 3 to 4 times slower there.
    """
    from mlx_fastcpu.patching import patch_nn

    model, tokenizer = load(folder)
    if adapter:
        apply_adapter(model, adapter, folder)
    modules = model.modules()
    is_adapted = any(isinstance(each, AdaptedLayer) for each in modules)
    if is_adapted and not any(isinstance(each, nn.QuantizedLinear) for each in modules):
        model, _ = merge_and_unload(model)
    model.eval()
    mx.eval(model.parameters())
    return patch_nn(model), tokenizer


def choose_sampling(
    given: Mapping[str, Any], defaults: Mapping[str, Any], folder: Path
) -> tuple[Sampling, str]:
    """Return the settings: those given, else those of the model's author, else `defaults`.

    The author's are in the model's `generation_config.json`. The text names those that are used.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    adapter = find_adapter(folder)
    path = find_model_folder(read_base(adapter).model if adapter else folder) / GENERATION_CONFIG
    content = read_json(path) if path.is_file() else {}
    authors: dict[str, Any] = {
        name: content[name]
        for name in _DEFAULTS
        if name not in chosen and isinstance(content.get(name), int | float)
    }
    if content.get("do_sample") is False and "temperature" not in chosen:
        authors = {"temperature": 0.0} | {
            name: value for name, value in authors.items() if name == "repetition_penalty"
        }
    used = {name: value for name, value in authors.items() if value != defaults.get(name)}
    note = ", ".join(f"{name} {value}" for name, value in used.items())
    try:
        sampling = Sampling(**{**defaults, **authors, **chosen})
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if authors else str(error)) from None
    return sampling, f"{path}: {note}" if note else ""
