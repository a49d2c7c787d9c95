"""`mlx-kaggle completion`."""

import click

EPILOG = """\b
~/.bashrc:  eval "$(mlx-kaggle completion bash)"
~/.zshrc:   eval "$(mlx-kaggle completion zsh)"
fish:       mlx-kaggle completion fish > ~/.config/fish/completions/mlx-kaggle.fish
"""


@click.command(epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, flags, presets, metrics and members in a shell."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, "mlx-kaggle", "_MLX_KAGGLE_COMPLETE")
    click.echo(script.source())
