"""Describe a folder or preset in numbers."""

from pathlib import Path
from typing import Any

from mlx_encoders.build import build_model, named_parameters
from mlx_encoders.files import find_folder
from mlx_encoders.folders import load_model, task_class
from mlx_encoders.presets import PRESETS, count_parameters
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.quantization import quantization_config
from mlx_encoders.tokenizer import Tokenizer


def describe(name: str) -> dict[str, Any]:
    """Return the facts of a preset, or of a local folder or hub id.

    A folder of the name of a preset comes first. Weights are not read, only their shapes.
    """
    if name in PRESETS and not Path(name).is_dir():
        return _facts(build_model(PRESETS[name])) | {"tokenizer": None}
    folder = find_folder(name)
    model, report = load_model(folder, model_class=task_class(folder))
    facts = _facts(model)
    try:
        tokenizer = Tokenizer.from_folder(folder)
        facts["tokenizer"] = f"{tokenizer.vocab_size} tokens"
    except FileNotFoundError:
        facts["tokenizer"] = None
    return facts | {"dropped_tensors": ", ".join(report.dropped) or None}


def _facts(model: PretrainedModel) -> dict[str, Any]:
    config = model.config
    arrays = named_parameters(model).values()
    settings = quantization_config(model)
    kinds = sorted({str(array.dtype).removeprefix("mlx.core.") for array in arrays})
    return {
        "class": type(model).__name__,
        "parameters": count_parameters(model),
        "bytes": sum(array.nbytes for array in arrays),
        "types": ", ".join(kinds),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "vocabulary": config.vocab_size,
        "maximum_length": getattr(config, "max_position_embeddings", None) or config.max_length,
        "quantization": None
        if settings is None
        else "{mode}, {bits} bits in groups of {group_size}".format(**settings),
    }
