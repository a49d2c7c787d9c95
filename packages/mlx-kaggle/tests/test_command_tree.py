"""Every command has the flags that the README says, and shells complete them."""

import re
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from mlx_kaggle.cli import cli

README = Path(__file__).parents[1] / "README.md"
FLAGS = ("--json", "--dry-run", "--seed", "--config", "--set")


def table_of_the_readme() -> dict[str, set[str]]:
    """Return the flags of each command, from the table whose heading names the flags."""
    lines = README.read_text("utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| commands |"))
    heads = [re.findall(r"`(--[a-z-]+)`", cell) for cell in lines[start].split("|")[2:-1]]
    assert [flag for head in heads for flag in head] == list(FLAGS)
    found: dict[str, set[str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        commands, *cells = line.split("|")[1:-1]
        flags = {flag for head, cell in zip(heads, cells, strict=True)
                 for flag in head if cell.strip() == "yes"}  # fmt: skip
        for name in re.findall(r"`([a-z -]+)`", commands):
            assert name not in found, name
            found[name] = flags
    return found


def test_every_command_has_the_flags_of_the_table_in_the_readme(commands):
    real = {
        name: {option for each in command.params for option in each.opts} & set(FLAGS)
        for name, command in commands.items()
    }
    assert real == table_of_the_readme()


def test_the_same_flag_means_the_same_in_every_command(commands):
    kinds: dict[str, set[tuple]] = {}
    for command in commands.values():
        for option in command.params:
            if isinstance(option, click.Option) and option.opts[0] in FLAGS:
                is_list = option.multiple
                kinds.setdefault(option.opts[0], set()).add((option.is_flag, is_list))
    assert kinds == {
        "--json": {(True, False)},
        "--dry-run": {(True, False)},
        "--seed": {(False, False)},
        "--config": {(False, False)},
        "--set": {(False, True)},
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_this_command(shell, run_cli):
    script = run_cli("completion", shell).stdout
    assert f"_MLX_KAGGLE_COMPLETE={shell}_complete" in script
    assert "mlx-kaggle" in script


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        (["train", "--preset"], "ti", ["titanic"]),
        (["config", "show", "--preset"], "st", ["standard", "store-sales"]),
        (["train", "--metric"], "quad", ["quadratic_kappa"]),
        (["cv", "--members"], "linear,tre", ["linear,trees"]),
        (["train", "--task"], "multil", ["multilabel"]),
        (["train", "--report-to"], "ml", ["mlflow"]),
        (["runs"], "mir", ["mirror"]),
        (["completion"], "z", ["zsh"]),
    ],
)
def test_a_shell_completes_names(words, incomplete, expected):
    found = ShellComplete(cli, {}, "mlx-kaggle", "_MLX_KAGGLE_COMPLETE")
    assert [each.value for each in found.get_completions(words, incomplete)] == expected


def test_a_shell_completes_paths_of_presets_and_runs():
    shell = ShellComplete(cli, {}, "mlx-kaggle", "_MLX_KAGGLE_COMPLETE")
    for words, incomplete, kind in (
        (["train", "--preset"], "./mine", "file"),
        (["predict", "--run"], "ru", "dir"),
        (["runs", "show"], "ru", "dir"),
    ):
        assert [each.type for each in shell.get_completions(words, incomplete)] == [kind]
