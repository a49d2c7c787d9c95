"""Read shards of token ids, by memory map: nanoGPT and llm.c .bin, .npy, .safetensors."""

import json
import math
from pathlib import Path

import numpy as np

from mlx_shards.errors import CorruptShard
from mlx_shards.formats import BLOCK, ReadOptions, block_sizes

# llm.c (dev/data/data_common.py): 256 int32 of header: magic, version, number of tokens.
_LLMC_HEADER = 256 * 4
_LLMC = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
_SAFETENSORS = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8",
}  # fmt: skip
_PIECE = 2048  # tokens a document where nothing tells documents apart


class Tokens:
    """One vector of token ids, cut into documents; a block is 1024 of them.

    `starts` are the first tokens of the documents; without them they are found by
    `options.document_start`.
    """

    def __init__(
        self, path: Path, tokens: np.ndarray, options: ReadOptions, starts: np.ndarray | None
    ):
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"{path}: expected a vector of integers, got {tokens.dtype} {tokens.shape}"
            )
        self._tokens: np.ndarray | None = tokens
        if starts is None:
            _check_separator(path, tokens.dtype, options.document_start)
            starts = document_starts(tokens, options.document_start)
        self._bounds = np.append(_checked_starts(path, starts, len(tokens)), len(tokens))
        self.sizes = block_sizes(len(starts))

    def read(self, block: int) -> list[np.ndarray]:
        """Return the documents of a block, (length,) each, of the type in the file."""
        assert self._tokens is not None
        bounds = self._bounds[block * BLOCK : (block + 1) * BLOCK + 1]
        tokens = np.array(self._tokens[bounds[0] : bounds[-1]])  # no more a view of the file
        return np.split(tokens, bounds[1:-1] - bounds[0])

    def close(self) -> None:
        """Give the memory map back."""
        self._tokens = None


def _check_separator(path: Path, dtype: np.dtype, document_start: int | None) -> None:
    limits = np.iinfo(dtype)
    if document_start is not None and not limits.min <= document_start <= limits.max:
        raise ValueError(
            f"{path}: its {dtype.name} cannot hold the id {document_start:,} that documents begin "
            "with"
        )


def _checked_starts(path: Path, starts: np.ndarray, count: int) -> np.ndarray:
    """Return the first tokens of documents; raises `ValueError` where they would lose tokens."""
    if starts.ndim != 1 or starts.dtype.kind not in "iu":
        raise ValueError(f"{path}: starts must be a vector of integers, got {starts.dtype}")
    whole = starts.astype(np.int64)
    first = int(whole[0]) if len(whole) else count
    if first or (whole[1:] < whole[:-1]).any() or (len(whole) and int(starts.max()) > count):
        raise ValueError(
            f"{path}: starts must ascend from 0 to at most {count:,}, the number of tokens"
        )
    return whole


def document_starts(tokens: np.ndarray, document_start: int | None) -> np.ndarray:
    """Return the indices at which documents begin.

    A separator at the end, as nanoGPT writes it, begins no document.
    """
    if document_start is None:
        return np.arange(0, len(tokens), _PIECE)
    starts = np.flatnonzero(tokens == document_start)
    if len(starts) and starts[-1] == len(tokens) - 1:
        starts = starts[:-1]
    if len(tokens) and (not len(starts) or starts[0] != 0):
        starts = np.insert(starts, 0, 0)
    return starts


def open_bin(path: Path, options: ReadOptions) -> Tokens:
    """Open tokens of nanoGPT or llm.c."""
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", 3)
    dtype = _LLMC.get((int(header[0]), int(header[1]))) if len(header) == 3 else None
    if dtype is None:
        dtype, offset = np.dtype(options.token_dtype).newbyteorder("<"), 0
        count, rest = divmod(size, dtype.itemsize)
    else:
        dtype, offset, count = np.dtype(dtype), _LLMC_HEADER, int(header[2])
        rest = size - offset - count * dtype.itemsize
    if rest:
        raise CorruptShard(f"{path}: {size:,} bytes do not hold whole tokens of {dtype.name}")
    return Tokens(path, _map(path, dtype, offset, count), options, None)


def open_npy(path: Path, options: ReadOptions) -> Tokens:
    """Open a vector saved by `numpy.save`."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptShard(f"{path}: {error}") from error
    return Tokens(path, tokens, options, None)


def open_safetensors(path: Path, options: ReadOptions) -> Tokens:
    """Open the tensor `tokens`, and `starts` (the first token of each document) if there is one."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
        header.pop("__metadata__", None)
        tensors = {
            name: _map(
                path,
                np.dtype(_SAFETENSORS[entry["dtype"]]),
                8 + length + entry["data_offsets"][0],
                math.prod(entry["shape"]),
            ).reshape(entry["shape"])
            for name, entry in header.items()
            if name in ("tokens", "starts")
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptShard(f"{path}: not safetensors of integers: {error!r}") from error
    if "tokens" not in tensors:
        raise ValueError(f"{path}: no tensor 'tokens'; it has {', '.join(header)}")
    return Tokens(path, tensors["tokens"], options, tensors.get("starts"))


def _map(path: Path, dtype: np.dtype, offset: int, count: int) -> np.ndarray:
    if count == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r", offset, (count,))
