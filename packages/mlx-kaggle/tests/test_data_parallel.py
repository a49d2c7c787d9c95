"""`mlx.launch -n 2 mlx-kaggle train`: the networks of one process, written by one of them."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.training.data_parallel import check_settings
from mlx_trainer import ConfigError

SCRIPT = Path(__file__).with_name("data_parallel_run.py")
# Each process draws its own dropout, so only a network without any is the same.
NETWORK = ("encoder.dropout=0", "head.dropout=0", "text.shuffle_columns=0.5", "text.tta=2",
           "training.epochs=2", "training.threads=1")  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(
    tmp_path, passengers, write_csv, tiny, alone_and_in_a_ring
):
    table = write_csv("train.csv", passengers(45))

    def command(folder, processes):
        return [sys.executable, SCRIPT, folder, table, *tiny, *NETWORK, "members=[text,neighbours]"]

    outputs = alone_and_in_a_ring(command)
    rows = [re.findall(r"rows of this process: (\d+)", each) for each in outputs]
    assert rows == [["10"], ["5"], ["5"]]
    one, two = tmp_path / "one", tmp_path / "two"
    names = [sorted(str(path.relative_to(each)) for path in each.rglob("*")) for each in (one, two)]
    assert names[0] == names[1]
    network = Path("members/fold-0-seed-0")
    predictions = [np.load(each / network / "validation.npy") for each in (one, two)]
    np.testing.assert_allclose(predictions[1], predictions[0], atol=1e-5)
    assert np.ptp(predictions[0][:, 1]) > 1e-3
    weights: list[Any] = [mx.load(str(each / network / "head.safetensors")) for each in (one, two)]
    # Sums in another order, then updates of AdamW.
    for name, array in weights[0].items():
        np.testing.assert_allclose(weights[1][name], array, atol=2e-5, err_msg=name)
    others = [np.load(each / "members/neighbours-fold-0/validation.npy") for each in (one, two)]
    np.testing.assert_array_equal(*others)
    logs = [
        [
            (entry["event"], entry["updates"])
            for entry in map(json.loads, path.read_text().splitlines())
        ]
        for path in (one / "metrics.jsonl", two / "metrics.jsonl")
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_other_commands_are_refused_by_one_line(alone_and_in_a_ring):
    def command(folder, processes):
        call = [sys.executable, "-m", "mlx_kaggle.cli", "presets", "list"]
        # The fixture wants all to end with 0, and these two end with 2.
        script = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]) != 2)"
        return call if processes == 1 else [sys.executable, "-c", script, *call]

    outputs = alone_and_in_a_ring(command)
    refused = [line for each in outputs for line in each.splitlines() if line.startswith("Error")]
    assert refused == ["Error: presets runs in one process: start it without mlx.launch"]


SETTINGS = ["training.adversarial=awp", "training.soup=uniform", "variants.augment=auto"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_several_processes_would_train_otherwise_is_refused(setting):
    with pytest.raises(ConfigError, match=f"{setting} .*; train without mlx.launch"):
        check_settings(resolve_config("quick", overrides=[setting]))
    check_settings(resolve_config("quick"))
