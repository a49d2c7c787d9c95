"""`mlx-kaggle benchmark`: the speed of text networks on a table."""

import json

import pytest


@pytest.fixture
def flags(passengers, write_csv, tiny_flags):
    return ["--train", write_csv("train.csv", passengers(40)), "--target", "Survived", *tiny_flags]


def test_every_encoder_is_measured_with_every_batch_size(flags, run_cli, tiny_modernbert, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    encoders = f"scratch,{tiny_modernbert}"
    done = run_cli("benchmark", *flags, "--encoders", encoders, "--batch-sizes", "4,8", "--json")
    found = json.loads(done.stdout)
    named = [(each["encoder"], each["batch_size"]) for each in found]
    paths = "scratch, 1 x 32", tiny_modernbert
    assert named == [(path, size) for path in paths for size in (4, 8)]
    assert all(each["training_rows"] > 0 and each["predicted_rows"] > 0 for each in found)
    assert all(8 < each["tokens_per_row"] <= 64 for each in found)
    assert found[0]["parameters"] == found[1]["parameters"] != found[2]["parameters"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_table_has_a_line_for_each(flags, run_cli):
    lines = run_cli("benchmark", *flags, "--rows", "16").stdout.splitlines()
    assert lines[0].split() == ["encoder", "parameters", "batch", "tokens", "train/s", "predict/s",
                                "peak", "MiB"]  # fmt: skip
    assert lines[1].startswith("scratch, 1 x 32")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--batch-sizes", "4,x"), "'4,x' is not numbers above 0"),
        (("--encoder", "scratch", "--encoders", "a,b"), "give --encoder or --encoders, not both"),
        (("--rows", "1"), "1 is not in the range x>=8"),
    ],
)
def test_wrong_flags_are_usage_errors(wrong, message, flags, run_cli):
    assert message in run_cli("benchmark", *flags, *wrong, code=2).stderr
