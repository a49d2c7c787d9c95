"""Convert tiny models with mlx-embeddings, for the tests of quantized folders in mlx-encoders.

Run in an environment with mlx-embeddings and mlx-encoders:

    python tools/make_fixtures_quantized.py

Writes packages/mlx-encoders/tests/fixtures/quantized; made with mlx-embeddings 0.1.0 and mlx
0.32.4. Each folder has what mlx-embeddings writes, without the tokenizer, and the hidden states
that it computes (`expected.safetensors`).
"""

import shutil
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_embeddings.convert import convert
from mlx_embeddings.utils import load

from mlx_encoders import (
    BertConfig,
    ModernBertConfig,
    ModernBertForMaskedLM,
    build_model,
    save,
    train_tokenizer,
)

FIXTURES = Path(__file__).parents[1] / "packages/mlx-encoders/tests/fixtures/quantized"
SIZES = {"vocab_size": 120, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64}


def main() -> None:
    """Write the fixtures."""
    bert = BertConfig(**SIZES, num_hidden_layers=1, max_position_embeddings=32)
    modern = ModernBertConfig(
        # The activation that mlx-embeddings computes whatever the config names
        **SIZES, num_hidden_layers=2, max_position_embeddings=32, local_attention=8, pad_token_id=0,
        hidden_activation="gelu_pytorch_tanh",
    )  # fmt: skip
    tokenizer = train_tokenizer(["the cat sat on the mat"], vocab_size=120)
    ids = np.random.default_rng(0).integers(5, 60, (2, 12)).astype(np.int32)
    valid = np.arange(12) < np.array([[12], [7]])
    for name, config, model_class, mode, bits, group_size in (
        ("bert-affine4", bert, None, "affine", 4, 64),
        ("bert-mxfp4", bert, None, "mxfp4", 4, 32),
        ("modernbert-affine8", modern, None, "affine", 8, 32),
        ("modernbert-mlm-affine4", modern, ModernBertForMaskedLM, "affine", 4, 64),
    ):
        target = FIXTURES / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as temporary:
            source, converted = Path(temporary) / "float", Path(temporary) / "quantized"
            save(source, build_model(config, 3, model_class=model_class), tokenizer)
            convert(
                str(source), str(converted), quantize=True, q_bits=bits,
                q_group_size=group_size, q_mode=mode,
            )  # fmt: skip
            model, _ = load(str(converted))
            model.set_dtype(mx.float32)
            encoder = model.model if hasattr(model, "model") else model
            mask = mx.array(valid).astype(mx.float32 if config is bert else mx.int32)
            out = encoder(mx.array(ids), attention_mask=mask)
            hidden = out["last_hidden_state"] if isinstance(out, dict) else out.last_hidden_state
            for file in ("config.json", "model.safetensors"):
                shutil.copy(converted / file, target)
            mx.save_safetensors(
                str(target / "expected.safetensors"),
                {"input_ids": mx.array(ids), "attention_mask": mx.array(valid), "hidden": hidden},
            )


if __name__ == "__main__":
    main()
