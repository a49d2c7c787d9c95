"""The modules of a sentence-transformers folder, in all its dialects."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
from tokenizers import normalizers

from mlx_encoders._atomic import write_atomic
from mlx_encoders._suggest import did_you_mean
from mlx_encoders.files import read_json, read_json_list, read_tensors
from mlx_encoders.pooling import Dense, pooling_names
from mlx_encoders.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)

# The keys of the older dialect, in the order in which it concatenates.
_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_SENTENCE = "sentence_embedding"
_PACKAGE = "sentence_transformers.models."
_PACKAGES = {"AttentionPooling": "mlx_encoders."}


@dataclass(frozen=True)
class SentenceSettings:
    """What a folder says beside the encoder; the defaults are those of a plain encoder."""

    encoder: str = ""
    """Folder of the encoder within the folder."""
    pooling: str = "mean"
    normalize: bool = True
    max_length: int | None = None
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    include_prompt: bool = True
    dense: tuple[Dense, ...] = ()
    query: mx.array | None = None
    """Of attention pooling."""


def read_modules(folder: Path) -> SentenceSettings | None:
    """Read `modules.json` and what it names; None if there is none.

    Raises `ValueError` for other modules than Transformer, Pooling, any number of Dense, Normalize,
    in this order.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = [_module(path, each) for each in read_json_list(path)]
    kinds = [kind for kind, _ in modules]
    normalize = kinds[-1:] == ["Normalize"]
    middle = kinds[2 : len(kinds) - normalize]
    if (
        kinds[:1] != ["Transformer"]
        or kinds[1:2] not in (["Pooling"], ["AttentionPooling"])
        or set(middle) - {"Dense"}
    ):
        raise ValueError(
            f"{path} has the modules {', '.join(kinds) or 'none'}; this package reads Transformer, "
            f"Pooling, any number of Dense, and Normalize, in this order"
        )
    if normalize and (folder / modules[-1][1] / "config.json").is_file():
        _check_features(folder / modules[-1][1] / "config.json")
    (_, encoder), (kind, pooled), *others = modules
    return SentenceSettings(
        encoder=encoder,
        normalize=normalize,
        dense=tuple(_read_dense(folder / each) for name, each in others if name == "Dense"),
        **(_read_attention if kind == "AttentionPooling" else _read_pooling)(folder / pooled),
        **_read_transformer(folder / encoder),
        **_read_prompts(folder / "config_sentence_transformers.json"),
    )


def write_modules(folder: Path, settings: SentenceSettings, hidden_size: int) -> None:
    """Write the files beside the encoder's, in the form that most releases read."""
    modules: list[tuple[str, str]] = [("Transformer", "")]
    _write(
        folder / "sentence_bert_config.json",
        {"max_seq_length": settings.max_length, "do_lower_case": settings.lowercase},
    )
    if settings.query is None:
        modules.append(("Pooling", "1_Pooling"))
        _write(folder / "1_Pooling/config.json", _pooling_config(settings, hidden_size))
    else:
        modules.append(("AttentionPooling", "1_AttentionPooling"))
        config = {"pooling": settings.pooling, "include_prompt": settings.include_prompt}
        _write(folder / "1_AttentionPooling/config.json", config)
        _write_tensors(folder / "1_AttentionPooling", {"query": settings.query})
    for layer in settings.dense:
        modules.append(("Dense", f"{len(modules)}_Dense"))
        _write_dense(folder / modules[-1][1], layer)
    if settings.normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))  # without files
    _write(
        folder / "config_sentence_transformers.json",
        {
            "prompts": dict(settings.prompts),
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": "cosine",
        },
    )
    _write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": _PACKAGES.get(kind, _PACKAGE) + kind}
            for i, (kind, path) in enumerate(modules)
        ],
    )


def _module(path: Path, module: object) -> tuple[str, str]:
    """Return the class of a module without its package, and its folder."""
    if not isinstance(module, dict) or not isinstance(module.get("type"), str):
        raise ValueError(f"{path} must be a list of modules with a type, got {module!r}")
    return module["type"].rpartition(".")[2], str(module.get("path", ""))


def _read_pooling(folder: Path) -> dict:
    path = folder / "config.json"
    config = read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        for key in on:
            if key not in _OLD_KEYS:
                raise ValueError(f"{path}: unknown pooling {key!r}{did_you_mean(key, _OLD_KEYS)}")
        modes = [mode for key, mode in _OLD_KEYS.items() if key in on] or ["mean"]
    names = [modes] if isinstance(modes, str) else modes
    if not isinstance(names, list):
        raise ValueError(f"{path}: pooling_mode must be a name or a list of names, got {modes!r}")
    pooling = "+".join("last" if name == "lasttoken" else str(name) for name in names)
    try:
        pooling_names(pooling)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return {"pooling": pooling, "include_prompt": config.get("include_prompt", True)}


def _pooling_config(settings: SentenceSettings, hidden_size: int) -> dict:
    names = ["lasttoken" if name == "last" else name for name in settings.pooling.split("+")]
    if names == [name for name in _OLD_KEYS.values() if name in names]:
        modes: dict = {key: name in names for key, name in _OLD_KEYS.items()}
        size = {"word_embedding_dimension": hidden_size}
    else:  # the older dialect has another order
        modes = {"pooling_mode": names}
        size = {"embedding_dimension": hidden_size}
    return {**size, **modes, "include_prompt": settings.include_prompt}


def _read_attention(folder: Path) -> dict:
    config = read_json(folder / "config.json")
    tensors = read_tensors(folder / "model.safetensors")
    if set(config) != {"pooling", "include_prompt"} or set(tensors) != {"query"}:
        raise ValueError(f"{folder} is not attention pooling of this package; save it again")
    return {**config, **tensors}


def _read_dense(folder: Path) -> Dense:
    path = folder / "config.json"
    config = read_json(path)
    _check_features(path)
    if config.get("use_residual"):
        raise ValueError(f"{path} has use_residual=true, which this package does not support")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(
            f"{folder} has no model.safetensors; pickled weights (pytorch_model.bin) are not read: "
            f"convert them with sentence-transformers' save_pretrained"
        )
    tensors = read_tensors(weights)
    if "linear.weight" not in tensors:
        raise ValueError(f"{weights} has {', '.join(tensors) or 'nothing'}, but no linear.weight")
    outputs, inputs = tensors["linear.weight"].shape
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    try:
        dense = Dense(inputs, outputs, "linear.bias" in tensors, activation)
        dense.load_weights(list(tensors.items()))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return dense


def _write_dense(folder: Path, layer: Dense) -> None:
    outputs, inputs = layer.linear.weight.shape
    config = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": "bias" in layer.linear,
        "activation_function": layer.activation,
    }
    _write(folder / "config.json", config)
    tensors = {"linear.weight": layer.linear.weight}
    if "bias" in layer.linear:
        tensors["linear.bias"] = layer.linear.bias
    _write_tensors(folder, tensors)


def _read_transformer(folder: Path) -> dict:
    paths = sorted(folder.glob("sentence_*_config.json"))
    if not paths:
        return {}
    config = read_json(paths[0])
    if config.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise ValueError(
            f"{paths[0]} has transformer_task={config['transformer_task']!r}; this package embeds "
            f"with 'feature-extraction' only"
        )
    if config.get("processing_kwargs"):
        raise ValueError(f"{paths[0]} has processing_kwargs, which this package does not support")
    return {
        "max_length": config.get("max_seq_length"),
        "lowercase": bool(config.get("do_lower_case")),
    }


def _read_prompts(path: Path) -> dict:
    if not path.is_file():
        return {}
    config = read_json(path)
    similarity = config.get("similarity_fn_name")
    if similarity not in (None, "cosine"):
        _LOGGER.warning("%s names the similarity %r; `search` is by cosine", path, similarity)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ValueError(f"{path}: prompts must be a dict of texts, got {prompts!r}")
    return {
        "prompts": {name: text or "" for name, text in prompts.items()},
        "default_prompt_name": config.get("default_prompt_name"),
    }


def _check_features(path: Path) -> None:
    """Raise `ValueError` for a module that works on other things than pooled vectors."""
    config = read_json(path)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _SENTENCE):
            raise ValueError(
                f"{path} has {key}={config[key]!r}, which this package does not support; it needs "
                f"{_SENTENCE!r}"
            )


def _write(path: Path, values: dict | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_tensors(folder: Path, tensors: dict[str, mx.array]) -> None:
    write_atomic(
        folder / "model.safetensors",
        lambda path: mx.save_safetensors(str(path), tensors, metadata={"format": "pt"}),
    )


def add_lowercase(tokenizer: Tokenizer) -> None:
    """Lowercase before everything else, as sentence-transformers does."""
    backend = tokenizer.backend
    if lowercases(tokenizer):
        return
    steps = [normalizers.Lowercase(), *([] if backend.normalizer is None else [backend.normalizer])]
    backend.normalizer = normalizers.Sequence(steps)  # type: ignore[assignment]


def lowercases(tokenizer: Tokenizer) -> bool:
    """Return whether a normalizer of its own lowercases.

    It must be written as `do_lower_case`: transformers 5 makes the normalizer of a BertTokenizer
    anew, without it.
    """
    normalizer = json.loads(tokenizer.backend.to_str())["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(step.get("type") == "Lowercase" for step in steps)
