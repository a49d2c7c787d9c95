"""Data parallelism: each process orthogonalizes some matrices and gathers the others."""

from collections.abc import Callable, Sequence

import mlx.core as mx

Orthogonalize = Callable[[mx.array], mx.array]


def assign_owners(shapes: Sequence[tuple[int, int, int]], processes: int) -> list[list[int]]:
    """Return, for each stack, the rank that computes each matrix; all ranks get equal work.

    Greedy: the largest matrix first, each to the rank with the least work so far. Every process
    computes the same result.
    """
    matrices = [(index, each) for index, shape in enumerate(shapes) for each in range(shape[0])]

    def cost(matrix: tuple[int, int]) -> int:
        _, rows, columns = shapes[matrix[0]]
        return rows * columns * min(rows, columns)

    found = [[0] * shape[0] for shape in shapes]
    loads = [0] * processes
    for matrix in sorted(matrices, key=cost, reverse=True):
        process = loads.index(min(loads))
        found[matrix[0]][matrix[1]] = process
        loads[process] += cost(matrix)
    return found


def orthogonalize_shared(
    stacks: Sequence[mx.array],
    functions: Sequence[Orthogonalize],
    group: mx.distributed.Group,
) -> list[mx.array]:
    """Apply each function to its stack, each matrix on one rank only; return all results.

    Costs one `all_gather`, padded to the results of the rank with the most.
    """
    shapes = [stack.shape for stack in stacks]
    owned = assign_owners(shapes, group.size())  # type: ignore[arg-type]
    mine = [_positions(each, group.rank()) for each in owned]
    done = [
        function(stack[mx.array(at)]).reshape(-1)
        for function, stack, at in zip(functions, stacks, mine, strict=True)
        if at
    ]
    lengths = [
        sum(
            len(_positions(each, rank)) * shape[1] * shape[2]
            for each, shape in zip(owned, shapes, strict=True)
        )
        for rank in range(group.size())
    ]
    flat = mx.concatenate(done) if done else mx.zeros((0,))
    flat = mx.pad(flat, (0, max(lengths) - flat.size))
    gathered = mx.distributed.all_gather(flat[None], group=group)
    return _unpack(gathered, owned, shapes)  # type: ignore[arg-type]


def _positions(owner_of_each: list[int], rank: int) -> list[int]:
    return [position for position, owner in enumerate(owner_of_each) if owner == rank]


def _unpack(
    gathered: mx.array, owned: list[list[int]], shapes: Sequence[tuple[int, int, int]]
) -> list[mx.array]:
    """Return the stacks, given the matrices of all ranks as (processes, length)."""
    starts = [0] * gathered.shape[0]
    stacks = []
    for each, (count, rows, columns) in zip(owned, shapes, strict=True):
        matrices = []
        for owner in each:
            end = starts[owner] + rows * columns
            matrices.append(gathered[owner, starts[owner] : end].reshape(1, rows, columns))
            starts[owner] = end
        stacks.append(mx.concatenate(matrices) if count > 1 else matrices[0])
    return stacks
