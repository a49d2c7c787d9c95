import os

import pytest

from mlx_fastcpu.allocator import memory_limit

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("memory.max", "1048576\n", 1048576),
        ("memory.max", "max\n", PHYSICAL),
        ("memory/memory.limit_in_bytes", "2097152\n", 2097152),
        ("memory/memory.limit_in_bytes", f"{2**63 - 4096}\n", PHYSICAL),
        ("other", "1\n", PHYSICAL),
    ],
)
def test_the_limit_of_a_container_counts_when_it_is_below_the_machines(
    tmp_path, name, text, expected
):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert memory_limit(tmp_path) == expected


def test_a_given_cache_limit_is_set_and_kept_by_later_calls(values_of):
    limits = values_of("""
import json, mlx.core as mx, mlx_fastcpu
given = mlx_fastcpu.activate(cache_limit=123 << 20).cache_limit
later = mlx_fastcpu.activate().cache_limit
print(json.dumps([given, later, mx.set_cache_limit(0)]))
""")
    if limits[0] is not None:  # nothing is set beside a GPU or in MLX before 0.32
        assert limits == [123 << 20] * 3


def test_the_default_does_not_lower_a_limit_set_before(values_of):
    limits = values_of("""
import json, mlx.core as mx, mlx_fastcpu
mx.set_cache_limit(1 << 40)
print(json.dumps([mlx_fastcpu.activate().cache_limit, mx.set_cache_limit(0)]))
""")
    if limits[0] is not None:
        assert limits == [1 << 40] * 2
