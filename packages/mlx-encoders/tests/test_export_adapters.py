"""LoRA adapters of PEFT, merged: tools/make_fixtures_adapters.py made them and their outputs.

Tolerance 1e-5: float32; PEFT adds the product of the factors to the output, not to the weight.
"""

import json
import re
import shutil

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs mlx-encoders[onnx]")

from mlx_encoders import load_model
from mlx_encoders.export import export_onnx
from mlx_encoders.export.loading import load_for_export
from mlx_encoders.export.verify import onnx_runner
from mlx_encoders.tasks import TASK_CLASSES

ADVICE = "merge it with peft's merge_and_unload and save_pretrained, and use that folder"


def outputs_of(path, case):
    ids = np.array(case["input_ids"])
    batch = {"input_ids": ids, "attention_mask": np.array(case["attention_mask"])}
    run = onnx_runner(path)
    try:
        return run(batch)
    except ValueError:  # BERT needs one more
        return run({**batch, "token_type_ids": np.zeros_like(ids)})


def test_a_rank_stabilized_adapter_gives_the_outputs_of_peft(fixtures, read_case, tmp_path):
    adapter = fixtures / "adapters/modernbert"
    model, _ = load_model(fixtures / "modernbert")
    report = export_onnx(model, tmp_path, adapter=adapter)
    case = read_case(adapter / "case.safetensors")
    valid = np.array(case["attention_mask"]).astype(bool)
    found = outputs_of(report.path, case)["last_hidden_state"]
    assert np.abs(found - np.array(case["outputs"]))[valid].max() < 1e-5


@pytest.mark.skipif(not TASK_CLASSES, reason="no task classes")
def test_patterns_embeddings_biases_and_the_saved_head_give_the_logits_of_peft(
    fixtures, read_case, tmp_path
):
    adapter = fixtures / "adapters/bert"
    model = load_for_export(fixtures / "bert", adapter)
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.num_labels == 3
    report = export_onnx(model, tmp_path, adapter=adapter)
    case = read_case(adapter / "case.safetensors")
    found = outputs_of(report.path, case)["logits"]
    assert np.abs(found - np.array(case["outputs"])).max() < 1e-5


@pytest.fixture
def changed(fixtures, tmp_path):
    """Copy the adapter of ModernBERT with other settings."""

    def change(name="modernbert", **settings):
        folder = tmp_path / "adapter"
        shutil.copytree(fixtures / "adapters" / name, folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        return folder

    return change


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dora", {}, f"use_dora=True, which is not merged here: {ADVICE}"),
        (
            "modernbert",
            {"init_lora_weights": "pissa", "layer_replication": [[0, 2]]},
            "layer_replication=[[0, 2]], init_lora_weights='pissa', which is not merged here: "
            + ADVICE,
        ),
        (
            "modernbert",
            {"peft_type": "LOHA"},
            f"an adapter of peft_type 'LOHA', and only 'LORA' is merged here: {ADVICE}",
        ),
    ],
)
def test_other_kinds_are_refused_with_advice(name, settings, message, changed, fixtures, tmp_path):
    folder = changed(name, **settings)
    model, _ = load_model(fixtures / "modernbert")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{folder} has {message}')}$"):
        export_onnx(model, tmp_path / "out", adapter=folder)


def test_tensors_of_another_model_are_named(fixtures, tmp_path):
    model, _ = load_model(fixtures / "modernbert")
    adapter = fixtures / "adapters/bert"
    message = (
        rf"^{re.escape(str(adapter))}: \S+ fits no tensor of the model; load the class that was "
        "adapted, with its task head$"
    )
    with pytest.raises(ValueError, match=message):
        export_onnx(model, tmp_path, adapter=adapter)


def test_tensors_of_another_size_are_named(changed, fixtures, tmp_path):
    folder = changed()
    path = folder / "adapter_model.safetensors"
    tensors = mx.load(str(path))
    name = "base_model.model.layers.0.attn.Wqkv.lora_B.weight"
    mx.save_safetensors(str(path), {**tensors, name: tensors[name][:90]})
    model, _ = load_model(fixtures / "modernbert")
    message = (
        f"{folder}: layers.0.attn.Wqkv is for a tensor (90, 32), but layers.0.attn.Wqkv.weight is "
        "(96, 32); load the model that was adapted"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export_onnx(model, tmp_path / "out", adapter=folder)


def test_a_folder_without_an_adapter_is_named(fixtures, tmp_path):
    model, _ = load_model(fixtures / "modernbert")
    message = f"{fixtures / 'bert'} has no adapter_config.json; name a folder saved by PEFT"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        export_onnx(model, tmp_path, adapter=fixtures / "bert")
