"""Ranks share an evaluation's work, and all find what one process finds."""

import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("evaluate_run.py")


def test_two_ranks_find_what_one_process_finds(tmp_path, alone_and_in_a_ring):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone_and_in_a_ring(lambda folder, processes: [sys.executable, SCRIPT, folder])

    names = ["one/rank0.json", "two/rank0.json", "two/rank1.json"]
    alone, first, second = (json.loads((tmp_path / name).read_text()) for name in names)
    assert first == second
    assert first.pop("bits") == pytest.approx(alone.pop("bits"), rel=1e-12)
    assert first == alone
    assert alone["sum"] == [0.1, 2.0**60]
