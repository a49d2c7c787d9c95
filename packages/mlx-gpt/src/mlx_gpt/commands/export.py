"""`mlx-gpt export`."""

from pathlib import Path

import click

from mlx_gpt.commands.convert import DTYPES, OUTPUT
from mlx_gpt.commands.options import INPUT_FOLDER, overwrite_option

EPILOG = """\b
For llama.cpp, with a clone of its repository and its requirements installed; it refuses tokenizers
that are not those of published models:
  mlx-gpt export MODEL --output MODEL-hf
  python llama.cpp/convert_hf_to_gguf.py MODEL-hf --outfile model.gguf --outtype f16
"""


@click.command(epilog=EPILOG)
@click.argument("model", type=INPUT_FOLDER)
@OUTPUT
@click.option("--dtype", type=DTYPES, help="Of all weights.  [default: the model's]")
@overwrite_option
def export(model: Path, output: Path, dtype: str | None, overwrite: bool) -> None:
    """Write MODEL for transformers: its names of tensors, without quantized layers.

    Adapters are fused first, with mlx-gpt fuse.
    """
    import mlx.core as mx

    from mlx_gpt.models import output as folders
    from mlx_gpt.models import rewrite
    from mlx_gpt.models.gpt2 import GPT2
    from mlx_gpt.models.llama import Llama

    found, source = rewrite.load_whole_model(model)
    if not isinstance(found, Llama | GPT2):
        raise ValueError(f"{model}: transformers has no class for the models of nanochat of 2026; "
                         "mlx-lm reads those of 2025 as they are")  # fmt: skip
    count = rewrite.dequantize(found, getattr(mx, dtype) if dtype else None)
    size = folders.write_model_folder(found, source, output, overwrite)
    rest = f", dequantized layers: {count}" if count else ""
    architecture = found.config.model_type
    click.echo(f"{output}: {architecture} for transformers, {size / 1e6:,.1f} MB{rest}")
