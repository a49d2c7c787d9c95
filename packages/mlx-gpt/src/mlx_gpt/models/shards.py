"""Read the files of a model folder: JSON, and the tensors of one or several safetensors files."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files

# Of other formats, by the first pattern that matches.
_ADVICE = {
    "*.bin": "is a pickle, which is not read; save it as safetensors with transformers: "
    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)",
    "*.pth": "is a pickle, which is not read; get the safetensors files of the model",
    "*.pt": "is a pickle, which is not read; for nanochat's use mlx-gpt convert nanochat",
    "*.gguf": "is of llama.cpp; get the safetensors files of the model",
    "*.npz": "is of an old mlx-lm; convert the original model again",
    "consolidated*.safetensors": "has other names of tensors; get model*.safetensors of the model",
}


def read_tensors(folder: Path) -> dict[str, mx.array]:
    """Return all tensors of a model folder; they are read when used.

    With an index only the files and tensors that it names are read. Raises `FileNotFoundError` for
    missing files, `ValueError` for damaged ones and other formats.
    """
    tensors: dict[str, mx.array] = {}
    for file, names in _files(folder).items():
        try:
            found: dict[str, mx.array] = mx.load(str(folder / file))  # type: ignore[assignment]
        except RuntimeError as error:
            raise ValueError(f"{folder / file} cannot be read: {error}") from None
        if names is None:
            return found
        absent = sorted(names - found.keys())
        if absent:
            raise ValueError(
                f"{folder / file} has no {absent[0]}, which {INDEX} places there; "
                "get both files from the same source"
            )
        tensors |= {name: found[name] for name in names}
    return tensors


def _files(folder: Path) -> Mapping[str, set[str] | None]:
    """Return the names of the tensors to read from each file, None for all."""
    if not (folder / INDEX).is_file():
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(_describe_absence(folder))
        return {WEIGHTS: None}
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()):
        raise ValueError(f"{folder / INDEX}: weight_map must name the file of each tensor")
    files: dict[str, set[str] | None] = defaultdict(set)
    for name, file in places.items():
        if Path(file).name != file:
            raise ValueError(f"{folder / INDEX}: {file!r} is not the name of a file")
        files[file].add(name)  # type: ignore[union-attr]
    absent = sorted(file for file in files if not (folder / file).is_file())
    if absent:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(absent)}, {len(absent)} of the {len(files)} files that "
            f"{INDEX} names; download the model again"
        )
    if WEIGHTS not in files and (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} has {WEIGHTS} and an {INDEX} that does not name it; delete the older one"
        )
    return files


def _describe_absence(folder: Path) -> str:
    for pattern, advice in _ADVICE.items():
        if found := sorted(folder.glob(pattern)):
            return f"{folder} has no {WEIGHTS}; {found[0].name} {advice}"
    return f"{folder} has no {WEIGHTS}"


def read_json(path: Path) -> dict[str, object]:
    """Return the JSON object in a file; `ValueError` for any other content."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must contain a JSON object, got a {type(values).__name__}")
    return values
