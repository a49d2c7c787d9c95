"""The whole path in one command, stopped and continued."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from mlx_gpt.cli import main
from mlx_gpt.data.documents import read_files
from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.models.files import find_model_folder, load_model
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.speedrun import prepare_text, speedrun, steps_of_one_epoch
from mlx_gpt.training.speedrun_settings import SpeedrunConfig, check_speedrun
from mlx_shards import local_shards
from mlx_trainer import RunFolder, load_config

# Rows of 48 tokens do not divide the batch of fine-tuning, 2048.
SETTINGS = ["--depth", "1", "--vocab-size", "384", "--sequence-len", "48", "--batch-tokens",
            "384", "--device-batch-size", "8", "--sft-epochs", "1",
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


@pytest.fixture
def run(start, sources):
    """Return a function that starts the command in a process."""

    def begin(output, *more):
        command = [sys.executable, "-m", "mlx_gpt.cli", "speedrun", *sources, "--output", output]
        return start([*command, *SETTINGS, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return begin


@pytest.mark.slow
def test_from_text_to_a_chat_and_a_report_and_on_after_an_interruption(
    run, sources, tmp_path, capsys
):
    output = tmp_path / "run"
    process = run(output, "--steps", "60")
    metrics = output / "pretrain" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"update"' in metrics.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors

    process = run(output, "--steps", "60")
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "[7/7] report" in said
    updates = [line["updates"] for line in RunFolder.open(output / "pretrain").metrics()
               if line["event"] == "update"]  # fmt: skip
    assert updates == list(range(1, 61))
    assert "**Is it far?**" in (output / "chat.md").read_text()
    report = json.loads((output / "report.json").read_text())
    assert report
    assert "| bits per byte |" in (output / "report.md").read_text()
    assert (output / "curves.png").stat().st_size > 10_000

    folder = find_model_folder(output / "sft")
    model, tokenizer = load_model(folder), Tokenizer.load(folder)
    assert tokenizer.vocab_size == 384
    engine = Engine(model, tokenizer)
    request = Request([tokenizer.bos_id], 4, Sampling(temperature=0.0))
    assert engine.generate([request])[0].ids

    def run_here(*more):
        with pytest.raises(SystemExit) as ended:
            main(["speedrun", *sources, "--output", str(output), *SETTINGS, *more])
        return ended.value.code or 0, capsys.readouterr().err

    code, errors = run_here("--steps", "60")
    assert code == 0, errors
    assert "train" not in errors  # everything was there already
    code, errors = run_here("--steps", "50")
    assert code == 1
    assert f"{output} was started with another steps ({output / 'speedrun.yaml'})" in errors


def asked(sources, **changed):
    text, _, chats = sources
    return SpeedrunConfig(**{"text": [text], "conversations": [chats], **changed})


@pytest.mark.parametrize(
    ("rows", "changed", "message"),
    [
        ([], {}, "chats.jsonl: no rows"),
        ([{"prompt": "a", "completion": "b"}], {}, "one conversation; at least two are needed"),
        ([{"question": "a"}], {}, "a row needs the keys text, or prompt"),
        (None, {"batch_tokens": 100}, "batch_tokens 100 is not a multiple of 8,192"),
        (None, {"text": ["absent.txt"]}, "absent.txt: no such file or folder"),
        (None, {"core": "absent"}, "absent: no such folder"),
    ],
)
def test_what_would_stop_a_later_stage_is_found_before_the_first(
    sources, tmp_path, rows, changed, message
):
    if rows is not None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "chats.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=message):
        speedrun(asked(sources, **changed), tmp_path / "run", print)
    assert not (tmp_path / "run").exists()


def test_a_text_of_one_document_is_too_little(sources, tmp_path):
    (tmp_path / "text.txt").write_text("Once upon a time.")
    message = (
        "the text has 17 characters; a speedrun needs at least 1,000, some to train on and the "
        "rest to validate on"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        prepare_text(asked(sources), tmp_path / "run", print)
    assert not (tmp_path / "run" / "data").exists()


def test_one_file_of_one_document_is_split_into_text_to_train_and_to_validate_on(tmp_path, texts):
    text = "\n".join(texts)[:3000]
    (tmp_path / "text.txt").write_text(text)
    prepare_text(SpeedrunConfig([str(tmp_path / "text.txt")]), tmp_path, print)
    train, held = (
        list(read_files(local_shards(tmp_path / "data" / name))) for name in ("train", "valid")
    )
    assert text.endswith("".join(held))
    assert sorted("".join(train + held)) == sorted(text)


def test_halves_of_characters_are_replaced_and_counted(tmp_path):
    rows = [{"text": f"number {i} " * 20} for i in range(60)] + [{"text": "half \ud83d of it"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    prepare_text(SpeedrunConfig([str(tmp_path / "a.jsonl")]), tmp_path, said.append)
    assert "  a.jsonl: replaced unpaired surrogates in 1 document(s)" in said
    texts = [text for name in ("train", "valid")
             for text in read_files(local_shards(tmp_path / "data" / name))]  # fmt: skip
    assert "half \ufffd of it" in texts


def test_settings_may_change_until_a_model_was_trained_with_them(sources, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="give more text or a smaller vocab_size"):
        speedrun(asked(sources, vocab_size=9000), folder, print)
    made = (folder / "data" / "train" / "manifest.json").stat().st_mtime_ns
    # The remedies that the message names:
    check_speedrun(asked(sources, vocab_size=384), folder)
    assert load_config(SpeedrunConfig, file=folder / "speedrun.yaml").vocab_size == 384
    assert (folder / "data" / "train" / "manifest.json").stat().st_mtime_ns == made
    more = asked(sources, vocab_size=9000, text=[sources[0], sources[0]])
    check_speedrun(more, folder)
    assert not (folder / "data").exists()

    (folder / "pretrain").mkdir()
    check_speedrun(replace(more, questions=["Why?"], sft_epochs=2), folder)
    message = (
        f"{folder} was started with another text, vocab_size ({folder / 'speedrun.yaml'}); give "
        "the same settings to continue, or another --output, or remove "
        f"{folder / 'pretrain'} to train again"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_speedrun(asked(sources, questions=["Why?"], sft_epochs=2), folder)


def test_shards_that_a_kill_cut_off_are_made_again(sources, tmp_path):
    prepare_text(asked(sources), tmp_path, print)
    before = {path: path.read_bytes() for path in (tmp_path / "data").glob("*/*")}
    assert len(before) == 4
    (tmp_path / "data" / "train" / "manifest.json").unlink()
    (tmp_path / "data" / "train" / "shard_00000.parquet").unlink()
    prepare_text(asked(sources), tmp_path, print)
    assert {path: path.read_bytes() for path in (tmp_path / "data").glob("*/*")} == before


def test_an_epoch_reads_long_documents_to_their_end_and_a_twentieth_is_held_out(
    tmp_path, texts, tokenizer
):
    documents = [" ".join(texts[i : i + 6]) for i in range(0, 240, 6)]  # each many rows long
    rows = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    (tmp_path / "long.jsonl").write_text(rows)
    config = SpeedrunConfig(
        [str(tmp_path / "long.jsonl")], sequence_len=32, batch_tokens=128, device_batch_size=4
    )
    prepare_text(config, tmp_path, print)
    assert len(list(read_files(local_shards(tmp_path / "data" / "valid")))) == 2  # of 40
    tokenizer.save(tmp_path / "tokenizer")
    read = steps_of_one_epoch(config, tmp_path) * config.batch_tokens
    trained = read_files(local_shards(tmp_path / "data" / "train"))
    there = sum(len(ids) + 1 for ids in tokenizer.encode_batch(list(trained)))
    assert 0.95 * there < read <= there


def test_a_speedrun_deletes_nothing_of_others_and_reads_nothing_inside_of_itself(sources, tmp_path):
    folder = tmp_path / "run"
    check_speedrun(asked(sources), folder)
    prepare_text(asked(sources), folder, print)
    theirs = [folder / name for name in ("thesis.docx", "data/mine.txt", "tokenizer/notes.md")]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    check_speedrun(asked(sources, seed=7), folder)
    assert not list((folder / "data").glob("*/shard_*"))
    assert [path.read_text() for path in theirs] == ["mine"] * 3
    with pytest.raises(ValueError, match=r"mine\.txt is in .*run, where files are replaced"):
        check_speedrun(asked(sources, text=[str(folder / "data" / "mine.txt")]), folder)
    assert theirs[1].read_text() == "mine"


def test_a_text_that_changed_is_read_again(sources, tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("One line of text. " * 200)
    config, folder = asked(sources, text=[str(text)]), tmp_path / "run"
    check_speedrun(config, folder)
    prepare_text(config, folder, print)
    text.write_text("Another line of text. " * 200)
    check_speedrun(config, folder)
    prepare_text(config, folder, print)
    assert "Another" in next(iter(read_files(local_shards(folder / "data" / "train"))))
    (folder / "pretrain").mkdir()
    text.write_text("A third line of text. " * 200)
    with pytest.raises(ValueError, match="was started with another text"):
        check_speedrun(config, folder)
