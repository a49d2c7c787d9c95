"""Tensors of a file that `torch.save` wrote, without torch, and without running what is in it.

Such a file is a zip archive: `data.pkl` is a pickle whose tensors refer to the files `data/0`,
`data/1`, ... A pickle can call whatever it names; here it may name an ordered dict, torch's
function that makes a tensor from its parts, and torch's names of number types, which are all taken
by functions of this module. Anything else is refused.
"""

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

# How the bytes are read, and what they are.
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

    Raises `FileNotFoundError` if there is no such file, `ValueError` if it is none of torch's, if
    it holds anything but tensors, or if it asks for something other than making tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ValueError("it has no data.pkl")
            content = _Reader(archive, names[0]).load()
    except OSError:
        raise
    except Exception as error:  # of the many that a damaged pickle may lead to
        raise ValueError(f"{path}: not tensors that torch.save wrote: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    others = [name for name, each in content.items() if not isinstance(each, mx.array)]
    if others:
        raise ValueError(f"{path}: {others[0]} is a {type(content[others[0]]).__name__}, no tensor")
    return content


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, pickle_name: str):
        super().__init__(archive.open(pickle_name))
        self._archive = archive
        self._folder = pickle_name.removesuffix("data.pkl")
        self._storages: dict[str, _Storage] = {}
        order = f"{self._folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its numbers are big-endian")

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return what a name in the pickle stands for; raises for all that is not listed here."""
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _make_tensor
        if module_name == "torch" and global_name in _STORAGES:
            return global_name
        raise ValueError(f"it asks for {module_name}.{global_name}")

    def persistent_load(self, pid: Any, /) -> _Storage:
        """Return the numbers that the pickle refers to."""
        kind, storage_type, key, _location, count = pid
        if kind != "storage" or storage_type not in _STORAGES:
            raise ValueError(f"it asks for a {kind} of {storage_type}")
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
    """Do what `torch._utils._rebuild_tensor_v2` does; strides count numbers, not bytes."""
    steps = zip(shape, strides, strict=True)
    last = offset + sum((size - 1) * stride for size, stride in steps)
    if min((offset, *shape, *strides)) < 0 or (0 not in shape and last >= storage.numbers.size):
        raise ValueError("a tensor lies outside of its storage")
    in_bytes = [stride * storage.numbers.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(storage.numbers[offset:], shape, in_bytes)
    array = mx.array(view)
    return array.view(mx.bfloat16) if storage.dtype == mx.bfloat16 else array.astype(storage.dtype)
