"""Read nanochat's pickles without torch or tiktoken, and without running code in them.

A pickle can call any function that it names. These readers accept a few names, replace them by
functions of this module, and refuse all others.

`torch.save` writes a zip archive: the tensors in the pickle `data.pkl` refer to the files `data/0`,
`data/1`, ... Allowed are ordered dicts, torch's function that rebuilds a tensor, and its storage
types. nanochat's `tokenizer.pkl` is a pickled `tiktoken.Encoding`; only that class is allowed.
"""

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gpt.tokenizer.tokenizer import Tokenizer

# Storage type -> dtype in the file and dtype of the tensor.
_STORAGES = {
    "FloatStorage": (np.dtype("<f4"), mx.float32),
    "HalfStorage": (np.dtype("<f2"), mx.float16),
    "BFloat16Storage": (np.dtype("<u2"), mx.bfloat16),  # NumPy has no such type
    "DoubleStorage": (np.dtype("<f8"), mx.float32),
    "LongStorage": (np.dtype("<i8"), mx.int64),
    "IntStorage": (np.dtype("<i4"), mx.int32),
    "BoolStorage": (np.dtype("?"), mx.bool_),
}


@dataclass(frozen=True)
class _Storage:
    numbers: np.ndarray  # flat
    dtype: mx.Dtype


def read_torch_file(path: str | Path) -> dict[str, mx.array]:
    """Return the tensors of a state dict by name; float64 becomes float32.

    Raises `FileNotFoundError` for a missing file, `ValueError` unless it is a torch file that
    contains only tensors and names only allowed functions.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ValueError("it has no data.pkl")
            content = _TorchUnpickler(archive, names[0]).load()
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise ValueError(f"{path}: not tensors from torch.save: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not a dict of tensors")
    others = [name for name, each in content.items() if not isinstance(each, mx.array)]
    if others:
        raise ValueError(
            f"{path}: {others[0]} is a {type(content[others[0]]).__name__}, not a tensor"
        )
    return content


def read_nanochat_tokenizer(path: str | Path, unsafe: bool = False) -> Tokenizer:
    """Return the tokenizer in nanochat's `tokenizer.pkl`, or in a folder that contains it.

    Raises `ValueError` without `unsafe`, and for any other pickle.
    """
    path = Path(path).expanduser()
    path = path / "tokenizer.pkl" if path.is_dir() else path
    check_unsafe(path, unsafe)
    with path.open("rb") as file:
        try:
            state = _TiktokenUnpickler(file).load().state
            ranks, pattern = state["mergeable_ranks"], state["pat_str"]
            specials = sorted(state["special_tokens"], key=state["special_tokens"].__getitem__)
            numbers = sorted(state["special_tokens"].values())
        except Exception as error:  # a damaged pickle can raise almost anything
            raise ValueError(f"{path}: not a tokenizer of nanochat: {error!r}") from error
    if numbers != list(range(len(ranks), len(ranks) + len(specials))):
        raise ValueError(f"{path}: the ids of special tokens must follow all others")
    try:
        return Tokenizer.from_ranks(ranks, pattern, specials)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_unsafe(path: Path, unsafe: bool) -> None:
    """Raise `ValueError` unless the user allowed to read a pickle, which must be there."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not unsafe:
        raise ValueError(
            f"{path} is a pickle, which can run programs; use unsafe=True (--unsafe) if you trust "
            "its source"
        )


class _TorchUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, pickle_name: str):
        super().__init__(archive.open(pickle_name))
        self._archive = archive
        self._folder = pickle_name.removesuffix("data.pkl")
        self._storages: dict[str, _Storage] = {}
        order = f"{self._folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its numbers are big-endian")

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return the replacement of a name in the pickle; raise unless it is allowed."""
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _make_tensor
        if module_name == "torch" and global_name in _STORAGES:
            return global_name
        raise ValueError(f"it names {module_name}.{global_name}, which is not allowed")

    def persistent_load(self, pid: Any, /) -> _Storage:
        """Return the storage that the pickle refers to."""
        kind, storage_type, key, _location, count = pid
        if kind != "storage" or storage_type not in _STORAGES:
            raise ValueError(f"it refers to a {kind} of {storage_type}, which is not allowed")
        if key not in self._storages:
            numpy_dtype, dtype = _STORAGES[storage_type]
            name = f"{self._folder}data/{key}"
            size, wanted = self._archive.getinfo(name).file_size, count * numpy_dtype.itemsize
            if size != wanted:
                raise ValueError(f"{name} has {size} bytes, not {wanted}")
            numbers = np.frombuffer(self._archive.read(name), numpy_dtype)
            self._storages[key] = _Storage(numbers, dtype)
        return self._storages[key]


def _make_tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,
    hooks: OrderedDict,
    metadata: object = None,
) -> mx.array:
    """Replace `torch._utils._rebuild_tensor_v2`; strides count elements, not bytes."""
    steps = zip(shape, strides, strict=True)
    last = offset + sum((size - 1) * stride for size, stride in steps)
    if min((offset, *shape, *strides)) < 0 or (0 not in shape and last >= storage.numbers.size):
        raise ValueError("a tensor lies outside of its storage")
    in_bytes = [stride * storage.numbers.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(storage.numbers[offset:], shape, in_bytes)
    array = mx.array(view)
    return array.view(mx.bfloat16) if storage.dtype == mx.bfloat16 else array.astype(storage.dtype)


class _Encoding:
    """Replaces `tiktoken.Encoding`: stores the state, runs nothing."""

    state: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


class _TiktokenUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> type:
        if (module_name, global_name) != ("tiktoken.core", "Encoding"):
            raise pickle.UnpicklingError(
                f"it names {module_name}.{global_name}, which is not allowed"
            )
        return _Encoding
