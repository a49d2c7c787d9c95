"""The tensors in files of Hugging Face's Llama family and GPT-2, and those of mlx-lm's.

In files of transformers GPT-2's matrices are `Conv1D` weights (in, out), under the prefix
"transformer." or none; mlx-lm writes them (out, in) under "model.". Names and shapes of the Llama
family are those of its modules.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_gpt.models.gpt2 import GPT2, GPT2Config
from mlx_gpt.models.llama import Llama, LlamaConfig

_LOGGER = logging.getLogger(__name__)

# Buffers that old versions of transformers saved.
_BUFFERS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias)")
_CONV1D = re.compile(r".*\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_GPT2_PREFIXES = ("transformer.", "model.", "")


def from_file_names(
    tensors: Mapping[str, mx.array], config: LlamaConfig | GPT2Config
) -> dict[str, mx.array]:
    """Return the tensors of a file under the names and in the layout of the model's parameters."""
    kept = {name: array for name, array in tensors.items() if not _BUFFERS.fullmatch(name)}
    if isinstance(config, LlamaConfig):
        return kept
    prefix = next((each for each in _GPT2_PREFIXES if f"{each}wte.weight" in kept), "")
    is_mlx_lm = prefix == "model."
    renamed = {}
    for name, array in kept.items():
        name = name if name == "lm_head.weight" else "transformer." + name.removeprefix(prefix)
        is_conv1d = _CONV1D.fullmatch(name) and array.ndim == 2 and not is_mlx_lm
        renamed[name] = array.T if is_conv1d else array
    return renamed


def to_file_names(model: nn.Module) -> dict[str, mx.array]:
    """Return the parameters of a model under the names and in the layout of files.

    A GPT-2 with quantized layers is written as mlx-lm writes it, because only mlx-lm and this
    package read those. Another has no prefix, as OpenAI's: transformers, mlx-lm and llama.cpp read
    that, and mlx-lm reads no other.
    """
    tensors: dict[str, mx.array] = dict(tree_flatten(model.parameters()))  # type: ignore[arg-type]
    if not isinstance(model, GPT2):
        return tensors
    prefix = "model." if any(name.endswith(".scales") for name in tensors) else ""
    named = {name.replace("transformer.", prefix, 1): each for name, each in tensors.items()}
    if prefix:
        return named
    return {
        name: mx.contiguous(array.T) if _CONV1D.fullmatch(name) else array
        for name, array in named.items()
    }


def settle_head(
    config: LlamaConfig | GPT2Config, tensors: Mapping[str, mx.array], is_explicit: bool
) -> tuple[LlamaConfig | GPT2Config, dict[str, mx.array]]:
    """Decide by `tie_word_embeddings` and the stored head whether the head is the embedding.

    `is_explicit` says that the file had the key. As in transformers, a stored head that differs
    from the embedding is used. Without a stored head it is the embedding, unless the file says that
    it is not: then the head is missing.
    """
    embedding = "transformer.wte" if isinstance(config, GPT2Config) else "model.embed_tokens"
    heads = {name for name in tensors if name.startswith("lm_head.")}
    tied = config.tie_word_embeddings
    if not heads:
        tied = tied or not is_explicit
    elif tied:
        tied = all(_is_same(name, tensors, embedding) for name in heads)
        if not tied and is_explicit:
            _LOGGER.warning(
                "tie_word_embeddings is true, but lm_head.weight differs from the embedding: "
                "it is used"
            )
    kept = {name: each for name, each in tensors.items() if not (tied and name in heads)}
    return replace(config, tie_word_embeddings=tied), kept


def _is_same(name: str, tensors: Mapping[str, mx.array], embedding: str) -> bool:
    other = tensors.get(name.replace("lm_head", embedding))
    return other is not None and bool(mx.array_equal(tensors[name], other))


def new_hub_model(config: LlamaConfig | GPT2Config) -> Llama | GPT2:
    """Return a model of this config, its weights not yet those of a file."""
    return GPT2(config) if isinstance(config, GPT2Config) else Llama(config)
