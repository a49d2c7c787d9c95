"""Token ids: checked as int32, read by memory map (.bin, .npy, .safetensors), written as .bin."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_shards._atomic import write_atomic
from mlx_shards.shard import CorruptShard, explain_disk_errors

MAX_ID = 2**31 - 1
BLOCK = 1024  # documents per block in formats without blocks

# llm.c (dev/data/data_common.py): 256 int32 of header: magic, version, number of tokens.
_LLMC_MAGIC = 20240520
_LLMC_HEADER = 256 * 4
_LLMC = {(_LLMC_MAGIC, 1): "<u2", (20240801, 7): "<u4"}
_SAFETENSORS = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8",
}  # fmt: skip
_CHUNK = 2048  # tokens per document if no token separates documents


def as_ids(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return token ids as (length,) int32.

    Raises `ValueError` for anything except a vector of integers, and for negative ids or ids beyond
    int32, which a cast would silently change.
    """
    try:
        ids = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"expected a list of token ids: {error}") from error
    if ids.ndim == 1 and ids.dtype.kind in "iu":
        if len(ids) and _exceeds_int32(ids):
            index = int(((ids < 0) | (ids > MAX_ID)).argmax())
            raise _id_error(index, int(ids[index]))
        return ids.astype(np.int32, copy=False)
    if ids.shape == (0,):
        return np.empty(0, np.int32)
    if ids.ndim == 1 and not isinstance(values, np.ndarray):  # integers beyond 64 bits
        for index, value in enumerate(values):
            if isinstance(value, int) and not 0 <= value <= MAX_ID:
                raise _id_error(index, value)
    got = f"an array of {ids.dtype} {ids.shape}" if ids.ndim else type(values).__name__
    raise ValueError(f"expected a list of token ids, got {got}")


def _exceeds_int32(ids: np.ndarray) -> bool:
    if ids.dtype.itemsize < 4:
        return ids.dtype.kind == "i" and bool(ids.min() < 0)
    # One pass checks both ends: read as unsigned, a negative number is a large one.
    return bool(ids.view(ids.dtype.str.replace("i", "u")).max() > MAX_ID)


def _id_error(index: int, value: int, limit: int = MAX_ID) -> ValueError:
    return ValueError(f"token {index + 1} has id {value:,}, which is not in [0, {limit:,}]")


class Tokens:
    """A reader of one vector of token ids, cut into documents.

    `starts` are the first tokens of the documents. Without them each `document_start` token begins
    a document; without both, a document has 2048 tokens.
    """

    def __init__(
        self,
        path: Path,
        tokens: np.ndarray,
        document_start: int | None,
        starts: np.ndarray | None = None,
    ):
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"{path}: expected a vector of integers, got {tokens.dtype} {tokens.shape}"
            )
        self._tokens: np.ndarray | None = tokens
        if starts is None:
            _check_separator(path, tokens.dtype, document_start)
            starts = document_starts(tokens, document_start)
        self._bounds = np.append(_check_starts(path, starts, len(tokens)), len(tokens))
        self.sizes = block_sizes(len(starts))

    def read(self, block: int) -> list[np.ndarray]:
        """Return the documents of a block, (length,) each, in the dtype of the file."""
        assert self._tokens is not None
        bounds = self._bounds[block * BLOCK : (block + 1) * BLOCK + 1]
        tokens = np.array(self._tokens[bounds[0] : bounds[-1]])  # a copy, no view of the file
        return np.split(tokens, bounds[1:-1] - bounds[0])

    def close(self) -> None:
        """Release the memory map."""
        self._tokens = None


def block_sizes(documents: int) -> list[int]:
    """Return the sizes of blocks of `BLOCK` documents; the last one may be smaller."""
    return [min(BLOCK, documents - first) for first in range(0, documents, BLOCK)]


def _check_separator(path: Path, dtype: np.dtype, document_start: int | None) -> None:
    limits = np.iinfo(dtype)
    if document_start is not None and not limits.min <= document_start <= limits.max:
        raise ValueError(
            f"{path}: its {dtype.name} cannot represent the id {document_start:,}, which begins "
            "documents"
        )


def _check_starts(path: Path, starts: np.ndarray, count: int) -> np.ndarray:
    """Return `starts` as int64; raises `ValueError` if tokens would be lost."""
    if starts.ndim != 1 or starts.dtype.kind not in "iu":
        raise ValueError(f"{path}: starts must be a vector of integers, got {starts.dtype}")
    checked = starts.astype(np.int64)
    first = int(checked[0]) if len(checked) else count
    descends = (checked[1:] < checked[:-1]).any()
    if first or descends or (len(checked) and int(starts.max()) > count):
        raise ValueError(
            f"{path}: starts must ascend from 0 to at most {count:,}, the number of tokens"
        )
    return checked


def document_starts(tokens: np.ndarray, document_start: int | None) -> np.ndarray:
    """Return the indices at which documents begin.

    A separator at the end, which nanoGPT writes, begins no document.
    """
    if document_start is None:
        return np.arange(0, len(tokens), _CHUNK)
    starts = np.flatnonzero(tokens == document_start)
    if len(starts) and starts[-1] == len(tokens) - 1:
        starts = starts[:-1]
    if len(tokens) and (not len(starts) or starts[0] != 0):
        starts = np.insert(starts, 0, 0)
    return starts


def open_bin(path: Path, document_start: int | None, token_dtype: str) -> Tokens:
    """Open a .bin of llm.c, or one of nanoGPT, which has no header and needs `token_dtype`."""
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", 3)
    dtype = _LLMC.get((int(header[0]), int(header[1]))) if len(header) == 3 else None
    if dtype is None:
        dtype, offset = np.dtype(token_dtype).newbyteorder("<"), 0
        count, rest = divmod(size, dtype.itemsize)
    else:
        dtype, offset, count = np.dtype(dtype), _LLMC_HEADER, int(header[2])
        rest = size - offset - count * dtype.itemsize
    if rest:
        raise CorruptShard(f"{path}: {size:,} bytes are not a multiple of a {dtype.name} token")
    return Tokens(path, _map(path, dtype, offset, count), document_start)


def open_npy(path: Path, document_start: int | None) -> Tokens:
    """Open a vector saved by `numpy.save`."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptShard(f"{path}: {error}") from error
    return Tokens(path, tokens, document_start)


def open_safetensors(path: Path, document_start: int | None) -> Tokens:
    """Open the tensor `tokens`, and `starts` (each document's first token) if it exists."""
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
    return Tokens(path, tensors["tokens"], document_start, tensors.get("starts"))


def _map(path: Path, dtype: np.dtype, offset: int, count: int) -> np.ndarray:
    if count == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r", offset, (count,))


def write_token_bin(path: str | Path, tokens: np.ndarray) -> None:
    """Write token ids below 65,536 as llm.c does: a header of 256 int32, then uint16."""
    limit = 2**16 - 1
    try:
        ids = as_ids(tokens)
        if len(ids) and ids.max() > limit:
            index = int((ids > limit).argmax())
            raise _id_error(index, int(ids[index]), limit)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if len(ids) > MAX_ID:
        raise ValueError(f"{path}: {len(ids):,} tokens, but the header can count only {MAX_ID:,}")
    header = np.zeros(256, "<i4")
    header[:3] = _LLMC_MAGIC, 1, len(ids)
    data = header.tobytes() + ids.astype("<u2").tobytes()
    with explain_disk_errors(Path(path), "free some space"):
        write_atomic(path, lambda temporary: temporary.write_bytes(data))
