"""The whole path in one command, stopped and continued."""

import json
import signal
import subprocess
import sys

import pytest

from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.models.files import load_model, model_folder
from mlx_gpt.tokenizer import Tokenizer
from mlx_trainer import RunFolder

SETTINGS = ["--depth", "1", "--vocab-size", "384", "--sequence-len", "64", "--batch-tokens",
            "512", "--device-batch-size", "8", "--sft-epochs", "1",
            "--question", "Is it far?"]  # fmt: skip


@pytest.fixture
def sources(tmp_path, texts):
    """A text file and a file of conversations."""
    (tmp_path / "text.txt").write_text("\n\n".join(texts * 10))
    rows = [
        {"messages": [{"role": "user", "content": f"What is {i} plus 1?"},
                      {"role": "assistant", "content": f"It is {i + 1}."}]}
        for i in range(60)
    ]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(tmp_path / "text.txt"), "--chat", str(tmp_path / "chats.jsonl")]


def start(sources, output, *more):
    script = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "from mlx_gpt.cli import main\nmain(sys.argv[1:])"
    command = [sys.executable, "-c", script, "speedrun", *sources, "--output", str(output)]
    return subprocess.Popen(
        [*command, *SETTINGS, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_from_text_to_a_chat_and_a_report_and_on_after_an_interruption(sources, tmp_path):
    output = tmp_path / "run"
    process = start(sources, output, "--steps", "200")
    metrics = output / "pretrain" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"update"' in metrics.read_text()):
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors

    process = start(sources, output, "--steps", "200")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "[7/7] report" in said
    updates = [line["updates"] for line in RunFolder.open(output / "pretrain").metrics()
               if line["event"] == "update"]  # fmt: skip
    assert updates == list(range(1, 201))
    assert "**Is it far?**" in (output / "chat.md").read_text()
    report = json.loads((output / "report.json").read_text())
    assert report
    assert "| bits per byte |" in (output / "report.md").read_text()
    assert (output / "curves.png").stat().st_size > 10_000

    folder = model_folder(output / "sft")
    model, tokenizer = load_model(folder), Tokenizer.load(folder)
    assert tokenizer.vocab_size == 384
    engine = Engine(model, tokenizer)
    request = Request([tokenizer.bos_id], 4, Sampling(temperature=0.0))
    assert engine.generate([request])[0].ids

    again = start(sources, output, "--steps", "200")
    said, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "train" not in errors  # everything was there already
    other = start(sources, output, "--steps", "100")
    _, errors = other.communicate(timeout=120)
    assert other.returncode == 1
    assert "was begun with other settings" in errors
