"""The memory of fine-tuning: within 10 % of measured peaks for adapters, 15 % for all weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlx.utils import tree_flatten

from mlx_gpt.commands.estimate import estimate as estimate_command
from mlx_gpt.data.batching import MicroBatch
from mlx_gpt.models.files import load_model
from mlx_gpt.models.formats import config_values, file_tensors
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.training import estimate as estimation
from mlx_gpt.training.estimate import Shape, describe, estimate, step_bytes
from mlx_gpt.training.finetune_model import load_for_training
from mlx_gpt.training.finetune_settings import (
    FinetuneConfig,
    FinetuneData,
    FinetuneMethod,
    FinetuneObjective,
)
from mlx_trainer import load_config

RUNS = json.loads((Path(__file__).parent / "fixtures" / "finetune_runs.json").read_text())
MEASURED = json.loads((Path(__file__).parent / "fixtures" / "finetune_memory.json").read_text())


def config_of(folder, **method):
    return FinetuneConfig(folder, FinetuneData([]), FinetuneMethod(**method))


@pytest.mark.parametrize(("method", "most"), [("lora", 0.10), ("full", 0.15)])
def test_the_peak_is_the_measured_one(method, most):
    """As measured by tools/fit_finetune_memory.py, on a CPU with mlx-fastcpu."""
    cases = [each for each in MEASURED if each["case"]["method"] == method]
    assert len(cases) >= 12
    for each in cases:
        case = each["case"]
        head = case["hidden"] // case["heads"]
        shape = Shape(case["layers"], case["hidden"], case["inner"], case["heads"], case["hidden"],
                      case["kv_heads"] * head, case["vocab"], case["rows"], case["width"],
                      case["rows"] * case["width"])  # fmt: skip
        is_full = method == "full"
        step = step_bytes(shape, case["checkpoint"], each["trained"] if is_full else 0)
        known = each["weights"] + each["trained"] * (2 if is_full else 3)
        assert known + step.total == pytest.approx(each["peak"], rel=most), case


@pytest.mark.parametrize("run", RUNS, ids=lambda run: " ".join(map(str, run["settings"].values())))
def test_the_peak_of_a_run_is_the_measured_one(tmp_path, run):
    """Of the third update of real runs, most of them not among those that the constants fit."""
    folder = write_header(tmp_path, run["sizes"])
    config = load_config(
        FinetuneConfig, flags={"model": folder, "data.train": []} | run["settings"]
    )
    sides = 1 if config.objective.name == "sft" else 2
    plan = [[MicroBatch([[0]] * (run["rows"] // sides), run["width"])]]
    most = 0.15 if config.method.is_full else 0.10
    assert estimate(config, plan).peak == pytest.approx(run["peak"], rel=most)


def write_header(folder: Path, sizes: list[int]) -> str:
    """Write a model folder whose weights are a hole in the file: an estimate does not read them."""
    layers, hidden, inner, heads, kv_heads, vocab = sizes
    model = Llama(LlamaConfig(vocab, hidden, inner, layers, heads, kv_heads, hidden // heads, 1024))
    header, end = {}, 0
    for name, each in file_tensors(model).items():
        places = [end, end := end + 4 * each.size]
        header[name] = {"dtype": "F32", "shape": each.shape, "data_offsets": places}
    text = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(config_values(model)))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return str(folder)


def test_pairs_fill_a_micro_batch_by_both_answers(llama_folder):
    """Without data; DPO's pairs of 128 tokens are 16 rows."""
    config = replace(config_of(llama_folder), objective=FinetuneObjective("dpo"))
    assert (estimate(config).shape.rows, estimate(config_of(llama_folder)).shape.rows) == (16, 8)


@pytest.mark.parametrize(
    "method", [{}, {"rank": 4, "name": "dora"}, {"name": "qlora"}, {"name": "full"}]
)
def test_weights_and_trained_parameters_are_those_of_the_run(llama_folder, method):
    config = config_of(llama_folder, **method)
    found = estimate(config)
    model, _, _ = load_for_training(config)
    held = sum(each.nbytes for _, each in tree_flatten(model.parameters()))
    trained = sum(each.nbytes for _, each in tree_flatten(model.trainable_parameters()))
    assert found.weights + found.adapter == held
    assert found.optimizer == 2 * trained
    assert (found.adapter or found.weights) == trained


def test_the_largest_micro_batch_counts(llama_folder):
    config = config_of(llama_folder)
    plan = [[MicroBatch([[0], [1]], 32)], [MicroBatch([[2]], 96), MicroBatch([[3], [4]], 64)]]
    assert (estimate(config, plan).shape.rows, estimate(config, plan).shape.width) == (2, 64)
    assert estimate(config).shape.width == 128  # the model's longest rows
    assert estimate(config, plan).peak < estimate(config).peak


def test_no_weights_are_read(llama_folder, tmp_path):
    """A file of zeros of the same size has the same header."""
    model = load_model(llama_folder)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((Path(llama_folder) / name).read_bytes())
    size = sum(each.nbytes for _, each in tree_flatten(model.parameters()))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) - size] + b"\xff" * size)  # NaN
    plan = [[MicroBatch([[0]], 64)]]
    assert (
        estimate(config_of(str(folder)), plan).peak == estimate(config_of(llama_folder), plan).peak
    )


def test_what_does_not_fit_gets_advice(llama_folder, monkeypatch):
    config = config_of(llama_folder)
    found = estimate(config)
    assert "does not fit" not in "\n".join(describe(found, config))
    lines = describe(replace(found, free=10**6), config)
    assert lines[-1].startswith("it does not fit; --micro-batch-tokens ")
    assert "--checkpoint-blocks" in lines[-1]
    assert "--method qlora" in lines[-1]


def test_the_command_prints_each_part(llama_folder):
    result = CliRunner().invoke(estimate_command, ["--model", llama_folder, "--method", "qlora"])
    assert result.exit_code == 0, result.output
    names = [line.split()[0] for line in result.output.splitlines()]
    assert names[:8] == [*estimation.PARTS, "peak", "free"]
    result = CliRunner().invoke(estimate_command, [])
    assert result.exit_code == 2
