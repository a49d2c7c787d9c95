"""`mlx-encoders info`."""

import click


@click.command("info")
@click.option("--model", required=True, help="Folder, hub id, or preset such as modernbert-base.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, as_json: bool) -> None:
    """Print the class, sizes, quantization and tokenizer of a model."""
    import json

    from mlx_encoders.description import describe

    facts = describe(model)
    if as_json:
        click.echo(json.dumps(facts))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        text = f"{value:,}" if isinstance(value, int) else "none" if value is None else str(value)
        click.echo(f"{name.replace('_', ' '):{width}}  {text}")
