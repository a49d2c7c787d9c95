"""Load and save model folders: `config.json`, `model.safetensors`, and the tokenizer's files.

Loading is strict: missing, unexpected and misshapen tensors are errors. Folders of transformers and
mlx-lm are read too, whose weights may be in several files.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_gpt.machine import default_dtype
from mlx_gpt.models.adapters import (
    ADAPTER_FILES,
    Base,
    add_saved_adapter,
    find_adapter,
    quantize_layers,
    read_base,
)
from mlx_gpt.models.formats import (
    Config,
    Decoder,
    build_model,
    config_values,
    file_tensors,
    named_parameters,
    read_config,
    tensor_names,
)
from mlx_gpt.models.hub_configs import HUB_TYPES
from mlx_gpt.models.shards import INDEX, WEIGHTS, read_json, read_tensors
from mlx_gpt.tokenizer.loading import AnyTokenizer, load_tokenizer
from mlx_gpt.tokenizer.pretrained import PretrainedTokenizer
from mlx_trainer import MANIFEST, check_manifest, write_atomic, write_manifest

CONFIG = "config.json"
TOKENIZER_HASH = "tokenizer_sha256"  # key in config.json
# All files that may be written into a model folder.
MODEL_FILES = (
    *(MANIFEST, CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json"),
    *("generation_config.json", "chat_template.jinja"),
    *ADAPTER_FILES,
)
_MAX_NAMES = 8  # of tensors in a message


def find_model_folder(path: str | Path) -> Path:
    """Return `path` if it is a model folder, or its subfolder `model` if it is a run folder.

    Raises `FileNotFoundError` if neither has a `config.json`.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file():
            return folder
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    raise FileNotFoundError(
        f"{path} is neither a model folder (it has no {CONFIG}) "
        f"nor a finished run (it has no model/{CONFIG})"
    )


def read_model_config(path: str | Path) -> Config:
    """Return the config of the model in a model or run folder; errors as in `load_model`."""
    folder = find_model_folder(path)
    try:
        return read_config(read_json(folder / CONFIG))
    except ValueError as error:
        raise ValueError(_with_path(folder / CONFIG, error)) from None


def read_tokenizer_hash(path: str | Path) -> str | None:
    """Return the `Tokenizer.sha256` saved in a model folder, None if it has none."""
    folder = find_model_folder(path)
    sha256 = read_json(folder / CONFIG).get(TOKENIZER_HASH)
    if sha256 is not None and not isinstance(sha256, str):
        raise ValueError(f"{folder / CONFIG}: {TOKENIZER_HASH} must be text, got {sha256!r}")
    return sha256


def load(
    folder: str | Path, dtype: mx.Dtype | None = None, training: bool = False
) -> tuple[Decoder, AnyTokenizer]:
    """Return the model and the tokenizer of a model or run folder.

    `dtype` and `training` are as in `load_model`, but `None` is the machine's `default_dtype`. An
    adapter is loaded with its model, whose weights stay as they are.
    Raises `ValueError` if the tokenizer is not the model's; see `check_tokenizer`.
    """
    if adapter := find_adapter(folder):
        base = read_base(adapter)
        model, tokenizer = load(base.model, dtype, training)
        if (adapter / "tokenizer.json").is_file():  # may have another chat template
            tokenizer = load_tokenizer(adapter)
        return _adapted(model, adapter, base), tokenizer
    path = find_model_folder(folder)
    tokenizer = load_tokenizer(path)
    vocab_size = read_model_config(path).vocab_size
    check_tokenizer(tokenizer, str(path), vocab_size, read_tokenizer_hash(path))
    return load_model(path, dtype or default_dtype(), training), tokenizer


def check_tokenizer(
    tokenizer: AnyTokenizer, source: str, vocab_size: int, sha256: str | None = None
) -> None:
    """Raise `ValueError` unless the model of `source` was trained with this tokenizer.

    If the model was saved without the hash, only the size of the vocabulary is compared. Models of
    Hugging Face may have more rows than their tokenizer has tokens, but not fewer.
    """
    size = tokenizer.vocab_size
    is_padded = isinstance(tokenizer, PretrainedTokenizer) and size < vocab_size
    if size != vocab_size and not is_padded:
        raise ValueError(
            f"{source}: the tokenizer has {size:,} tokens and the model "
            f"{vocab_size:,}; use the tokenizer that the model was trained with"
        )
    if sha256 and tokenizer.sha256 != sha256:
        raise ValueError(
            f"{source}: the tokenizer (sha256 {tokenizer.sha256[:12]}) is not the one that the "
            f"model was trained with (sha256 {sha256[:12]}), though both have {size:,} "
            "tokens; restore the model's tokenizer.json"
        )


def load_model(path: str | Path, dtype: mx.Dtype | None = None, training: bool = False) -> Decoder:
    """Load the model of a model folder or run folder.

    `dtype` is that of activations and weights; with `training` only of activations and embeddings,
    while other weights are float32, as in pretraining. `None` keeps the dtypes of the weights and
    computes in the widest of them. Raises `FileNotFoundError` for missing files, `ChangedFileError`
    if a file does not match the manifest, `ValueError` for unreadable files, an unsupported config,
    and tensors that are missing, unexpected, misshapen or not finite.
    """
    if adapter := find_adapter(path):
        base = read_base(adapter)
        return _adapted(load_model(base.model, dtype, training), adapter, base)
    folder = find_model_folder(path)
    if (folder / MANIFEST).exists():  # folders of other programs have none
        check_manifest(folder, (CONFIG, WEIGHTS))
    tensors = read_tensors(folder)
    activations = dtype or _widest(tensors)
    values = read_json(folder / CONFIG)
    try:
        model, tensors = build_model(values, tensors, activations)
    except ValueError as error:
        raise ValueError(_with_path(folder / CONFIG, error)) from None
    fill_weights(model, tensors, str(folder))
    check_finite(model, str(folder))
    if dtype is not None or training:
        _cast(model, activations, training)
    mx.eval(model.parameters())
    return model


def _adapted(model: Decoder, adapter: Path, base: Base) -> Decoder:
    if (adapter / MANIFEST).exists():
        check_manifest(adapter, ADAPTER_FILES[:1])
    if base.bits:
        quantize_layers(model, base.bits, base.group_size)
    add_saved_adapter(model, adapter)
    model.eval()
    return model


def save_model(model: Decoder, folder: str | Path, tokenizer_sha256: str | None = None) -> None:
    """Write `config.json` and `model.safetensors`, each atomically; create the folder if needed.

    `tokenizer_sha256` is the hash of the tokenizer that the model was trained with. Weights keep
    their dtype and have nanochat's names, or those of transformers, which loads the folder. mlx-lm
    can load all but a `Nanochat`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # of the files replaced below
    weights = file_tensors(model)
    dtype = str(_widest(weights)).removeprefix("mlx.core.")
    config = config_values(model) | {"dtype": dtype}
    if config.get("model_type") in HUB_TYPES:
        config["torch_dtype"] = dtype  # mlx-lm and transformers 4 read this key
    if tokenizer_sha256:
        config[TOKENIZER_HASH] = tokenizer_sha256
    text = json.dumps(config, indent=2) + "\n"
    target = folder / CONFIG
    if target.is_file() and target.read_text(encoding="utf-8") != text:
        target.unlink()  # if killed below, the folder must not mix two models
    (folder / INDEX).unlink(missing_ok=True)
    write_atomic(
        folder / WEIGHTS,
        # transformers refuses a file without this metadata.
        lambda path: mx.save_safetensors(str(path), weights, metadata={"format": "pt"}),
    )
    write_atomic(target, lambda path: path.write_text(text, encoding="utf-8"))


def save_manifest(folder: Path) -> None:
    """Write `manifest.json`, the checksums of a complete folder of a model or an adapter."""
    write_manifest(folder, (name for name in MODEL_FILES[1:] if (folder / name).is_file()))


def fill_weights(model: Decoder, tensors: Mapping[str, mx.array], source: str) -> None:
    """Set the weights of a model from tensors, whose names are those in files.

    Raises `ValueError`, beginning with `source`, with a list of all tensors that are missing,
    unexpected or misshapen.
    """
    names = tensor_names(model)
    expected = {names[name]: array for name, array in named_parameters(model).items()}
    missing = sorted(expected.keys() - tensors.keys())
    problems = {
        "missing": missing,
        "unexpected": [
            _suggest(name, missing) for name in sorted(tensors.keys() - expected.keys())
        ],
        "misshapen": [
            f"{name} is {_show(tensors[name])}, not {_show(expected[name])}"
            for name in sorted(expected.keys() & tensors.keys())
            if not _fits(tensors[name], expected[name])
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_list(each)}" for what, each in problems.items() if each)
        raise ValueError(f"{source}: the tensors do not match the config; {listed}")
    model.update(tree_unflatten([(name, tensors[names[name]]) for name in names]))


def check_finite(model: Decoder, source: str) -> None:
    """Raise `ValueError`, beginning with `source`, unless all weights are finite."""
    finite = {name: mx.isfinite(array).all() for name, array in named_parameters(model).items()}
    mx.eval(finite)
    bad = sorted(name for name, each in finite.items() if not each)
    if bad:
        raise ValueError(
            f"{source}: weights are not finite, probably because training diverged: {_list(bad)}"
        )


def _with_path(path: Path, error: ValueError) -> str:
    text = str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"


def _cast(model: Decoder, dtype: mx.Dtype, training: bool) -> None:
    embeddings = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }
    weights = [
        (name, array.astype(mx.float32 if training and name not in embeddings else dtype))
        for name, array in named_parameters(model).items()
        if mx.issubdtype(array.dtype, mx.floating)  # the integers of quantized layers stay
    ]
    model.update(tree_unflatten(weights))


def _widest(tensors: Mapping[str, mx.array]) -> mx.Dtype:
    every = {array.dtype for array in tensors.values()}
    dtypes = {dtype for dtype in every if mx.issubdtype(dtype, mx.floating)}
    return dtypes.pop() if len(dtypes) == 1 else mx.float32


def _fits(array: mx.array, expected: mx.array) -> bool:
    if mx.issubdtype(expected.dtype, mx.floating):
        return array.shape == expected.shape and mx.issubdtype(array.dtype, mx.floating)
    return array.shape == expected.shape and array.dtype == expected.dtype


def _show(array: mx.array) -> str:
    dtype = "" if mx.issubdtype(array.dtype, mx.floating) else f" {array.dtype}"
    return f"{array.shape}{dtype}".replace("mlx.core.", "")


def _suggest(name: str, missing: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, missing, n=1)
    return f"{name} (did you mean {near[0]}?)" if near else name


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
