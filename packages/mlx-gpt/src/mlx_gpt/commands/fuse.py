"""`mlx-gpt fuse`."""

from pathlib import Path

import click

from mlx_gpt.commands.convert import DTYPES, OUTPUT
from mlx_gpt.commands.options import INPUT_FOLDER, device_option, overwrite_option


@click.command()
@click.argument("adapter", type=INPUT_FOLDER)
@OUTPUT
@click.option("--base", type=INPUT_FOLDER,
              help="The adapter's model.  [default: the one that the adapter names]")  # fmt: skip
@click.option("--dtype", type=DTYPES, help="Of the fused layers of a quantized model (float32 if "
              "not given), and of all weights of another (its own if not given).")  # fmt: skip
@click.option("--requantize", is_flag=True,
              help="Quantize the fused layers again, which loses most of the adapter.")  # fmt: skip
@overwrite_option
@device_option
def fuse(
    adapter: Path,
    output: Path,
    base: Path | None,
    dtype: str | None,
    requantize: bool,
    overwrite: bool,
) -> None:
    """Put an adapter into the weights of its model, and write a whole model.

    ADAPTER is a finetune run, or a folder of PEFT or mlx-lm. Layers of a quantized model that the
    adapter changes are written unquantized. What is left of the adapter's effect is printed.
    """
    import mlx.core as mx

    from mlx_gpt.models.adapters import find_adapter
    from mlx_gpt.models.output import write_model_folder
    from mlx_gpt.models.rewrite import fuse as fuse_adapter

    chosen = getattr(mx, dtype) if dtype else None
    model, source, report, change = fuse_adapter(adapter, base, chosen, requantize)
    write_model_folder(model, source, output, overwrite, tokenizer=find_adapter(adapter))
    click.echo(f"{output}: {report}")
    click.echo(str(change))
