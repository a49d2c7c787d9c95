"""Small tables shared by the tests, and the commands on them."""

import csv
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen

import click
import mlx.core as mx
import numpy as np
import pytest

from mlx_kaggle.cli import cli, main


@pytest.fixture(scope="module", autouse=True)
def uncompiled() -> Iterator[None]:
    """Compile nothing, here and in processes begun by tests: a kernel takes a CPU a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_DISABLE_COMPILE", "1")
        mx.disable_compile()
        yield
    mx.enable_compile()


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory, monkeypatch) -> None:
    """Remember the last encoder in a folder of the test, and not in that of the user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def compiled(uncompiled: None) -> Iterator[None]:
    """Compile all the same, as for a user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLX_DISABLE_COMPILE")
        mx.enable_compile()
        yield
    mx.disable_compile()


@pytest.fixture
def run_cli(tmp_path, monkeypatch, capsys) -> Iterator[Callable[..., CompletedProcess[str]]]:
    """Run a command in this process and in the folder of the test; return what it wrote.

    A process of its own would import for seconds.
    """
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object, code: int = 0) -> CompletedProcess[str]:
        words = [*map(str, arguments)]
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        done = CompletedProcess(words, int(ended.value.code or 0), *capsys.readouterr())
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def commands() -> dict[str, click.Command]:
    """Every command by its words: "runs list"."""

    def leaves(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from leaves(command, (*words, name))
            else:
                yield " ".join((*words, name)), command

    return dict(leaves(cli, ()))


@pytest.fixture
def start_cli(tmp_path, start) -> Callable[..., Popen[str]]:
    """Start a command as a user does: in a process of its own, in the folder of the test."""

    def begin(*arguments: object) -> Popen[str]:
        command = [sys.executable, "-m", "mlx_kaggle.cli", *arguments]
        return start(command, cwd=tmp_path, stdout=PIPE, stderr=PIPE)

    return begin


@pytest.fixture
def write_csv(tmp_path):
    """Write a dict of columns as a CSV and return its path."""

    def write(name: str, columns: dict[str, list], separator: str = ",") -> str:
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=separator, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return str(path)

    return write


@pytest.fixture
def passengers():
    """Make rows whose answer follows from sex and class: a task a small model can learn."""

    def make(rows: int, seed: int = 0, first_id: int = 1) -> dict[str, list]:
        rng = np.random.default_rng(seed)
        sex = rng.choice(["male", "female"], rows)
        pclass = rng.integers(1, 4, rows)
        age = rng.integers(1, 80, rows)
        survived = (sex == "female") & (pclass < 3)
        return {
            "PassengerId": list(range(first_id, first_id + rows)),
            "Survived": survived.astype(int).tolist(),
            "Pclass": pclass.tolist(),
            "Sex": sex.tolist(),
            "Age": ["" if i % 7 == 0 else int(a) for i, a in enumerate(age)],
            "Fare": np.round(rng.gamma(2.0, 15.0, rows), 2).tolist(),
        }

    return make


@pytest.fixture
def tiny_modernbert(tmp_path) -> str:
    """A Hugging Face folder of a ModernBERT of one narrow layer, with a tokenizer."""
    from mlx_encoders import ModernBertConfig, build_model, save, train_tokenizer

    words = ["sex male female", "age 1 2 3 4 5 6 7 8 9 0", "fare high low pclass embarked"] * 4
    tokenizer = train_tokenizer(words, vocab_size=200)
    config = ModernBertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        local_attention=16,
        pad_token_id=tokenizer.pad_token_id,
    )
    save(tmp_path / "modernbert", build_model(config), tokenizer)
    return str(tmp_path / "modernbert")


TINY = [
    "encoder.hidden_size=32",
    "encoder.num_hidden_layers=1",
    "encoder.num_attention_heads=2",
    "encoder.intermediate_size=32",
    "encoder.vocab_size=300",
    "head.feature_size=8",
    "text.max_tokens=64",
    "members=[text]",
    "blend.generate=none",
]


@pytest.fixture
def tiny() -> list[str]:
    """Overrides that make the quick preset small enough for tests."""
    return list(TINY)


@pytest.fixture
def tiny_flags() -> list[str]:
    """The same as command-line arguments."""
    return [part for setting in TINY for part in ("--set", setting)]


@pytest.fixture
def shared_data() -> Path:
    """The folder of real tables, from the environment; skip without it."""
    import os

    folder = os.environ.get("MLX_PACKAGES_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MLX_PACKAGES_DATA names no folder of real tables")
    return Path(folder)
