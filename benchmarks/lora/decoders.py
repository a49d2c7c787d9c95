"""Adapters on a tiny Llama of mlx-lm: its files read and written, beside its own layers."""

import json
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from mlx_lora import LoraConfig, add_adapter, load_mlx_lm_adapter, save_mlx_lm_adapter

CASES = ("LoRA", "DoRA", "LoRA, 4 bits", "DoRA, 4 bits")
PARAMETERS = {"rank": 4, "scale": 3.0, "dropout": 0.0}


def compare(case: str) -> list[float]:
    """Return the largest differences of logits: mlx-lm's folder read here, ours read there."""
    bits, dora = ("4 bits" in case), ("DoRA" in case)
    keys = ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]
    ids = mx.random.randint(0, 100, (2, 12), key=mx.random.key(5))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = _model(bits)
        theirs.freeze()
        linear_to_lora_layers(theirs, 2, {**PARAMETERS, "keys": keys}, use_dora=dora)
        _stir(theirs)
        adapter = dict(tree_flatten(theirs.trainable_parameters()))
        mx.save_safetensors(str(folder / "adapters.safetensors"), adapter)
        config = {"fine_tune_type": "dora" if dora else "lora", "num_layers": 2,
                  "lora_parameters": {**PARAMETERS, "keys": keys}}  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config))
        ours = _model(bits)
        load_mlx_lm_adapter(ours, folder)
        read = float(mx.abs(ours(ids) - theirs(ids)).max())

        ours = _model(bits)
        add_adapter(ours, LoraConfig(r=4, lora_alpha=12, target_modules=keys, use_dora=dora,
                                     layers_to_transform=[1, 2]))  # fmt: skip
        _stir(ours)
        save_mlx_lm_adapter(ours, folder / "ours")
        theirs = load_adapters(_model(bits), str(folder / "ours"))
        written = float(mx.abs(ours(ids) - theirs(ids)).max())
    return [read, written]


def _model(quantized: bool) -> Model:
    mx.random.seed(0)
    arguments = ModelArgs(
        model_type="llama", hidden_size=64, num_hidden_layers=3, intermediate_size=128,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=100,
    )  # fmt: skip
    model = Model(arguments)
    if quantized:
        nn.quantize(model, group_size=32, bits=4)
    mx.eval(model.parameters())
    return model


def _stir(model: Model) -> None:
    mx.random.seed(1)
    arrays = tree_flatten(model.trainable_parameters())
    changed = [(path, each + 0.05 * mx.random.normal(each.shape)) for path, each in arrays]
    model.load_weights(changed, strict=False)
    mx.eval(model.parameters())
