"""Adapters of GPT-2 in the files of PEFT and mlx-lm, whose layers have other names and layouts.

The fixtures are of tools/make_fixtures_gpt2_adapters.py; tools/check_interop_decoders.py checks
that both programs read what is written here.
"""

import json
from pathlib import Path

import mlx.core as mx
import pytest
from decoder_folders import FIXTURES, IDS, write_folder
from mlx.utils import tree_flatten, tree_map

from mlx_gpt.models.adapters import Base, add_saved_adapter, write_adapter
from mlx_gpt.models.files import load_model
from mlx_gpt.training.finetune import build, finetune
from mlx_gpt.training.finetune_settings import (
    FinetuneConfig,
    FinetuneData,
    FinetuneMethod,
    FinetuneTraining,
)
from mlx_lora import merge_and_unload

ROOT = FIXTURES / "gpt2_adapters"
LOGITS: dict[str, mx.array] = mx.load(str(ROOT / "logits.safetensors"))  # type: ignore
TENSORS = {"peft": "adapter_model.safetensors", "mlx-lm": "adapters.safetensors"}


def form_of(name: str) -> str:
    return "peft" if name.startswith("peft") else "mlx-lm"


@pytest.fixture
def base(tmp_path) -> Path:
    return write_folder(tmp_path / "base", "gpt2")


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_those_of_who_wrote_the_adapter(base, name):
    model = load_model(base, mx.float32)
    plain = model(IDS)
    add_saved_adapter(model, ROOT / name)
    model.eval()
    assert mx.abs(model(IDS)[:, ::2] - LOGITS[name]).max() < 1e-4
    assert mx.abs(plain[:, ::2] - LOGITS[name]).max() > 0.5
    merged, _ = merge_and_unload(model)
    assert mx.abs(merged(IDS)[:, ::2] - LOGITS[name]).max() < 1e-4


@pytest.mark.parametrize("name", LOGITS)
def test_what_was_read_is_written_again(base, tmp_path, name):
    """The tensors bit for bit; of the settings those that say what is computed."""
    form = form_of(name)
    model = load_model(base, mx.float32)
    add_saved_adapter(model, ROOT / name)
    write_adapter(model, tmp_path / "again", Base(str(base)), form)  # type: ignore[arg-type]
    ours, theirs = (
        mx.load(str(each / TENSORS[form])) for each in (tmp_path / "again", ROOT / name)
    )
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[key], theirs[key]) for key in theirs)
    again, first = (json.loads((each / "adapter_config.json").read_text())
                    for each in (tmp_path / "again", ROOT / name))  # fmt: skip
    if form == "mlx-lm":
        assert again == first
        return
    for key in ("fan_in_fan_out", "lora_alpha", "modules_to_save", "r", "use_dora", "use_rslora"):
        assert again[key] == first[key], key
    assert sorted(again["target_modules"]) == sorted(first["target_modules"])


@pytest.mark.parametrize("form", TENSORS)
def test_an_adapter_changes_its_form_without_a_loss(base, tmp_path, form):
    name = "mlx_lm_lora" if form == "peft" else "peft_lora"
    model = load_model(base, mx.float32)
    add_saved_adapter(model, ROOT / name)
    write_adapter(model, tmp_path / "other", Base(str(base)), form)  # type: ignore[arg-type]
    again = load_model(tmp_path / "other", mx.float32)
    assert mx.abs(again(IDS)[:, ::2] - LOGITS[name]).max() < 1e-4


@pytest.mark.parametrize("form", TENSORS)
def test_training_writes_what_the_others_read(base, tmp_path, write_pretrained, form):
    """Names and shapes are those of their files, and PEFT is told how the weights are stored."""
    tokenizer = write_pretrained(tmp_path / "tokenizer")
    layout = json.loads((tokenizer / "tokenizer.json").read_text())
    size = max(layout["model"]["vocab"].values()) + 64
    model = load_model(base, mx.float32)
    tensors = dict(tree_flatten(model.parameters()))
    tensors["transformer.wte.weight"] = 0.1 * mx.random.normal((size, 32), key=mx.random.key(0))
    tensors = {name: each.T if ".c_" in name and name.endswith("weight") else each
               for name, each in tensors.items()}  # fmt: skip
    folder = write_folder(tmp_path / "model", "gpt2", changes={"vocab_size": size}, tensors=tensors)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "rows.jsonl").write_text('{"text": "a red dog"}\n' * 8)
    config = FinetuneConfig(
        str(folder), FinetuneData([str(tmp_path / "rows.jsonl")]),
        FinetuneMethod(rank=3, adapter_format=form),  # type: ignore[arg-type]
        training=FinetuneTraining(learning_rate=1e-2, batch_size=2),
    )  # fmt: skip
    job = build(config)
    finetune(job, tmp_path / "run", lambda event: None)
    job.model.eval()
    assert mx.allclose(load_model(tmp_path / "run")(IDS), job.model(IDS), atol=1e-5)
    written = mx.load(str(tmp_path / "run/model" / TENSORS[form]))
    known = mx.load(str(ROOT / ("peft_lora" if form == "peft" else "mlx_lm_lora") / TENSORS[form]))
    assert known.keys() <= written.keys()
    assert {key: written[key].shape for key in known} == tree_map(lambda each: each.shape, known)
    if form == "peft":
        settings = json.loads((tmp_path / "run/model/adapter_config.json").read_text())
        assert settings["fan_in_fan_out"] is True
