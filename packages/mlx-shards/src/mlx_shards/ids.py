"""Token ids as int32, which a number outside of it would silently become another number of."""

from collections.abc import Sequence

import numpy as np

LARGEST = 2**31 - 1


def as_ids(found: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return token ids as (length,) int32.

    Raises `ValueError` where one is negative or beyond int32, or where they are no integers.
    """
    try:
        ids = np.asarray(found)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"expected a list of token ids: {error}") from error
    if ids.ndim == 1 and ids.dtype.kind in "iu":
        if len(ids) and _has_outside(ids):
            place = int(((ids < 0) | (ids > LARGEST)).argmax())
            raise _outside(place, int(ids[place]))
        return ids.astype(np.int32, copy=False)
    if ids.shape == (0,):
        return np.empty(0, np.int32)
    if ids.ndim == 1 and not isinstance(found, np.ndarray):  # integers beyond 64 bits
        for place, each in enumerate(found):
            if isinstance(each, int) and not 0 <= each <= LARGEST:
                raise _outside(place, each)
    what = f"an array of {ids.dtype} {ids.shape}" if ids.ndim else type(found).__name__
    raise ValueError(f"expected a list of token ids, got {what}")


def _has_outside(ids: np.ndarray) -> bool:
    if ids.dtype.itemsize < 4:
        return ids.dtype.kind == "i" and bool(ids.min() < 0)
    # One look for both ends: a negative number is a large one without its sign.
    return bool(ids.view(ids.dtype.str.replace("i", "u")).max() > LARGEST)


def _outside(place: int, value: int) -> ValueError:
    return ValueError(f"token {place + 1} has id {value:,}, which is not in [0, {LARGEST:,}]")
