"""Errors of all commands are one line that says what to do, and an exit code."""

import pytest

from mlx_gpt.cli import cli, main
from mlx_shards import ShardError


def fails(capsys, *arguments):
    """Run the command line; return its exit code and the last line of stderr."""
    with pytest.raises(SystemExit) as stopped:
        main([str(each) for each in arguments])
    return stopped.value.code, capsys.readouterr().err.rstrip("\n").split("\n")[-1]


def test_a_folder_that_cannot_be_made_is_known_before_the_work(capsys, tmp_path):
    (tmp_path / "text.txt").write_text("word " * 100)
    output = tmp_path / "text.txt" / "tokenizer"
    code, line = fails(
        capsys, "tokenizer", "train", tmp_path / "text.txt", "--output", output,
        "--vocab-size", 10,  # refused too, but later
    )  # fmt: skip
    assert (code, line) == (1, f"Error: {output}: Not a directory")


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_file_is_no_model_folder(capsys, tmp_path, command):
    (tmp_path / "model").touch()
    code, line = fails(capsys, command, "--model", tmp_path / "model")
    assert code == 2
    assert f"Directory '{tmp_path / 'model'}' is a file" in line


def test_prompts_that_are_not_text_are_refused(capsys, tmp_path):
    (tmp_path / "prompts").write_bytes(b"\xff\xfe\n")
    code, line = fails(
        capsys, "generate", "--model", tmp_path, "--prompts-file", tmp_path / "prompts"
    )
    assert code == 1
    assert line.startswith(f"Error: {tmp_path / 'prompts'}: not UTF-8 text: ")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("head"), "KeyError: 'head' (this looks like a defect; --debug shows where)"),
        (KeyError("no special token '<|x|>'"), "no special token '<|x|>'"),
        (ShardError("shard 3 is damaged"), "shard 3 is damaged"),
    ],
)
def test_a_bare_key_is_a_defect_and_a_sentence_is_not(capsys, monkeypatch, tmp_path, error, line):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(cli.commands["report"], "callback", fail)
    assert fails(capsys, "report", tmp_path) == (1, f"Error: {line}")


# A flag is an interface: renaming a setting must not rename it unnoticed.
FLAGS = {
    "train": """
        batch-tokens checkpoint-blocks checkpoint-every config core core-every data depth
        device-batch-size dry-run dtype evaluate-every init-from numbers output oversize
        overwrite resume sample-every schedule seed sequence-len set steps threads tokenizer
        tokens-per-parameter valid window-pattern
    """,
    "sft": """
        batch-tokens checkpoint-blocks checkpoint-every config data device-batch-size dtype
        epochs evaluate-every fresh-optimizer keep-optimizer-state model output overwrite resume
        sample-every seed sequence-len set threads valid
    """,
    "rl": """
        checkpoint-blocks checkpoint-every config data device-batch-size dtype epochs evaluate-every
        max-tokens model output overwrite questions resume samples seed set temperature
        threads top-k valid
    """,
    "speedrun": """
        batch-tokens chat core depth device-batch-size output question seed sequence-len
        sft-epochs steps vocab-size
    """,
}


@pytest.mark.parametrize("name", FLAGS)
def test_the_flags_of_a_training_command_are_these(name):
    options = [option for parameter in cli.commands[name].params
               for option in (*parameter.opts, *parameter.secondary_opts)]  # fmt: skip
    assert sorted(each for each in options if each[0] == "-") == [
        f"--{flag}" for flag in sorted(["device", *FLAGS[name].split()])
    ]


@pytest.mark.parametrize("name", ["train", "sft", "rl"])
@pytest.mark.parametrize("given", [("--seed", 1), ("--set", "training.seed=1"), ("--overwrite",)])
def test_resume_refuses_settings(capsys, tmp_path, name, given):
    code, line = fails(capsys, name, "--resume", "--output", tmp_path, *given)
    assert code == 2
    assert line.startswith("Error: --resume takes everything")
