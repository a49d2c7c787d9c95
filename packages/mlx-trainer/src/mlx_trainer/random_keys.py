"""MLX's global random state, which dropout uses, as plain integers to save and pass on."""

import mlx.core as mx
import numpy as np

Key = tuple[int, int]


def random_key() -> Key:
    """Return the key of this thread's random state."""
    high, low = np.array(random_state())
    return int(high), int(low)


def set_random_key(key: Key) -> None:
    """Restore the key that `random_key` returned."""
    # The state cannot be assigned, but the two halves of a seed are the key.
    mx.random.seed((key[0] << 32) | key[1])


def split_random_key(count: int) -> list[Key]:
    """Return `count` keys split from this thread's random state, which advances once."""
    rows = np.array(mx.random.split(random_state(), count + 1))
    following, *keys = [(int(high), int(low)) for high, low in rows]
    set_random_key(following)
    return keys


def random_state() -> mx.array:
    """Return the key as an array, possibly not evaluated yet."""
    return mx.random.state[0]  # type: ignore[index]
