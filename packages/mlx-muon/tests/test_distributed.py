import sys
from pathlib import Path

import mlx.core as mx
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_muon.distributed import assign_owners

SCRIPT = Path(__file__).with_name("distributed_run.py")


def test_two_processes_equal_one_bit_for_bit(tmp_path, alone_and_in_a_ring):
    alone_and_in_a_ring(lambda folder, processes: [sys.executable, SCRIPT, tmp_path])
    alone, *shared = (
        mx.load(str(tmp_path / f"{name}.safetensors")) for name in ("alone", "0", "1")
    )
    assert len(alone) > 100
    for name, value in alone.items():
        for arrays in shared:
            assert mx.array_equal(arrays[name], value), name


@settings(deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)), max_size=6),
    processes=st.integers(1, 5),
)
def test_every_matrix_has_one_owner_and_all_have_about_equal_work(shapes, processes):
    found = assign_owners(shapes, processes)
    assert [len(each) for each in found] == [count for count, _, _ in shapes]
    loads, largest = [0] * processes, 0
    for (_, rows, columns), each in zip(shapes, found, strict=True):
        for owner in each:
            loads[owner] += rows * columns * min(rows, columns)
            largest = max(largest, rows * columns * min(rows, columns))
    # A matrix goes to the rank with the least work, so loads differ by at most one matrix.
    assert max(loads) - min(loads) <= largest
