"""Rank, number of processes and synchronization for data parallelism; trivial in one process."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

_is_alone = False


@contextmanager
def alone(is_alone: bool = True) -> Iterator[None]:
    """Let this process work as a single one, as if the others were not there; or not any more.

    Inside, `rank` is 0 and `world_size` is 1, so that a `TrainStep` waits for nobody.
    """
    global _is_alone
    before, _is_alone = _is_alone, is_alone
    try:
        yield
    finally:
        _is_alone = before


def rank() -> int:
    """Return the rank of this process under `mlx.launch`, 0 in a single process."""
    return 0 if _is_alone else mx.distributed.init().rank()


def world_size() -> int:
    """Return the number of processes that train together, 1 for a single process."""
    return 1 if _is_alone else mx.distributed.init().size()


def wait_for_all() -> None:
    """Return once every process has called this."""
    if world_size() > 1:
        mx.eval(mx.distributed.all_sum(mx.array(1.0), stream=mx.cpu))


def rank_zero_flag(flag: bool) -> bool:
    """Return rank zero's flag on every rank, for decisions that depend on a clock."""
    if world_size() == 1:
        return flag
    mine = float(flag) if rank() == 0 else 0.0
    return float(mx.distributed.all_sum(mx.array(mine), stream=mx.cpu)) > 0


def gather_keys(key: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the random keys of all ranks, in order."""
    if world_size() == 1:
        return [key]
    rows = mx.distributed.all_gather(mx.array([key], mx.uint32), stream=mx.cpu)
    return [(int(row[0]), int(row[1])) for row in rows.tolist()]  # type: ignore[union-attr]
