"""Model folders: `config.json` and `model.safetensors`, with every tensor accounted for."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_gpt._atomic import write_atomic
from mlx_gpt.models.formats import (
    Decoder,
    as_nanochat_names,
    describe,
    file_names,
    new_model,
    parameters,
)
from mlx_gpt.models.nanochat import NanochatConfig
from mlx_gpt.models.nanochat_2025 import Nanochat2025Config
from mlx_trainer import MANIFEST, check_manifest, write_manifest

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER_HASH = "tokenizer_sha256"  # its key in the config
_INDEX = "model.safetensors.index.json"  # of weights in several files
# All that is written into a model folder, by whomever; the manifest names what is there.
MODEL_FILES = (MANIFEST, CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json")
_LISTED = 8


def model_folder(path: str | Path) -> Path:
    """Return the model folder that `path` is, or, of a run folder, has as `model`.

    Raises `FileNotFoundError` when neither has a `config.json`.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file():
            return folder
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder")
    raise FileNotFoundError(
        f"{path} is neither a model folder (it has no {CONFIG}) "
        f"nor a finished run (it has no model/{CONFIG})"
    )


def config_of(path: str | Path) -> NanochatConfig | Nanochat2025Config:
    """Return the configuration of the model in a model or run folder; errors as in `load_model`."""
    return _unfilled(model_folder(path), mx.float32).config


def tokenizer_hash(path: str | Path) -> str | None:
    """Return the `Tokenizer.sha256` that a model folder was saved with, None if it has none."""
    folder = model_folder(path)
    found = _read_json(folder / CONFIG).get(TOKENIZER_HASH)
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{folder / CONFIG}: {TOKENIZER_HASH} must be text, got {found!r}")
    return found


def save_model(model: Decoder, folder: str | Path, tokenizer_sha256: str | None = None) -> None:
    """Write `config.json` and `model.safetensors`, each in one step; the folder is made if needed.

    `tokenizer_sha256` is of the tokenizer whose ids the model was trained on. Weights keep
    their dtype, and have the names they have in nanochat. mlx-lm reads the folder of a
    `Nanochat2025`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # of what is replaced here
    names = file_names(model)
    weights = {names[name]: array for name, array in parameters(model).items()}
    config = describe(model) | {"dtype": str(_widest(weights)).removeprefix("mlx.core.")}
    if tokenizer_sha256:
        config[TOKENIZER_HASH] = tokenizer_sha256
    text = json.dumps(config, indent=2) + "\n"
    target = folder / CONFIG
    if target.is_file() and target.read_text(encoding="utf-8") != text:
        target.unlink()  # what is killed below must not leave it with the weights of another model
    (folder / _INDEX).unlink(missing_ok=True)
    write_atomic(
        folder / WEIGHTS,
        # transformers refuses a file that does not say which framework's layout it has.
        lambda path: mx.save_safetensors(str(path), weights, metadata={"format": "pt"}),
    )
    write_atomic(target, lambda path: path.write_text(text, encoding="utf-8"))


def save_manifest(folder: Path) -> None:
    """Write `manifest.json`, the checksums of the files of a model folder that is complete."""
    write_manifest(folder, (name for name in MODEL_FILES[1:] if (folder / name).is_file()))


def load_model(path: str | Path, dtype: mx.Dtype | None = None, training: bool = False) -> Decoder:
    """Load the model of a model folder or run folder.

    `dtype` is that of activations, and of the weights unless `training`: then only embeddings have
    it, and all else is float32, as in pretraining. `None` keeps the weights as they are and
    computes in the widest of their types. Raises `FileNotFoundError` when there is nothing to load,
    `ChangedFileError` when a file is not what it was when a run ended,
    `ValueError` for files that cannot be read, a config that asks for what is not computed here,
    and tensors that are missing, unexpected or of another shape.
    """
    folder = model_folder(path)
    if (folder / MANIFEST).exists():  # there is none in a folder of others
        check_manifest(folder, (CONFIG, WEIGHTS))
    tensors = as_nanochat_names(_read_tensors(folder))
    activations = dtype or _widest(tensors)
    model = _unfilled(folder, activations)
    fill(model, tensors, str(folder))
    check_finite(model, str(folder))
    if dtype is not None or training:
        _cast(model, activations, training)
    mx.eval(model.parameters())
    return model


def fill(model: Decoder, tensors: Mapping[str, mx.array], source: str) -> None:
    """Put tensors, by their names in files, into a model of `source`, which errors name.

    Raises `ValueError`, with all of them, if tensors are missing, unexpected or do not fit.
    """
    names = file_names(model)
    expected = {names[name]: array for name, array in parameters(model).items()}
    missing = sorted(expected.keys() - tensors.keys())
    unfit = [
        name for name in expected if name in tensors and not _fits(tensors[name], expected[name])
    ]
    problems = {
        "missing": missing,
        "unexpected": [
            _with_near(name, missing) for name in sorted(tensors.keys() - expected.keys())
        ],
        "not fitting": [
            f"{name} is {_show(tensors[name])}, not {_show(expected[name])}"
            for name in sorted(unfit)
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_list(each)}" for what, each in problems.items() if each)
        raise ValueError(f"{source}: the tensors are not those of the config; {listed}")
    model.update(tree_unflatten([(name, tensors[names[name]]) for name in names]))


def check_finite(model: Decoder, source: str) -> None:
    """Raise `ValueError` unless all weights are finite numbers; `source` is what errors name."""
    finite = {name: mx.isfinite(array).all() for name, array in parameters(model).items()}
    mx.eval(finite)
    spoilt = sorted(name for name, each in finite.items() if not each)
    if spoilt:
        raise ValueError(
            f"{source}: weights that are not finite numbers, as after training that diverged: "
            f"{_list(spoilt)}"
        )


def _unfilled(folder: Path, dtype: mx.Dtype) -> Decoder:
    """Return the model that the config describes, its weights yet to be filled in."""
    config = _read_json(folder / CONFIG)
    try:
        return new_model(config, dtype)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from None


def _cast(model: Decoder, dtype: mx.Dtype, training: bool) -> None:
    embeddings = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }
    weights = [
        (name, array.astype(mx.float32 if training and name not in embeddings else dtype))
        for name, array in parameters(model).items()
    ]
    model.update(tree_unflatten(weights))


def _read_tensors(folder: Path) -> dict[str, mx.array]:
    files = [WEIGHTS]
    if (folder / _INDEX).is_file():
        index = _read_json(folder / _INDEX).get("weight_map")
        if not isinstance(index, dict):
            raise ValueError(f"{folder / _INDEX}: weight_map must name the file of each tensor")
        files = sorted(set(index.values()))
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise FileNotFoundError(f"{folder} has no {', '.join(absent)}")
    tensors: dict[str, mx.array] = {}
    for file in files:
        try:
            tensors |= mx.load(str(folder / file))  # type: ignore[operator]
        except RuntimeError as error:
            raise ValueError(f"{folder / file} cannot be read: {error}") from None
    return tensors


def _read_json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(values).__name__}")
    return values


def _widest(tensors: Mapping[str, mx.array]) -> mx.Dtype:
    dtypes = {array.dtype for array in tensors.values()}
    return dtypes.pop() if len(dtypes) == 1 else mx.float32


def _fits(array: mx.array, expected: mx.array) -> bool:
    return array.shape == expected.shape and mx.issubdtype(array.dtype, mx.floating)


def _show(array: mx.array) -> str:
    dtype = "" if mx.issubdtype(array.dtype, mx.floating) else f" {array.dtype}"
    return f"{array.shape}{dtype}".replace("mlx.core.", "")


def _with_near(name: str, missing: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, missing, n=1)
    return f"{name} (did you mean {near[0]}?)" if near else name


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
