import json
import re

import pytest
from click.testing import CliRunner

from mlx_gpt.cli import main
from mlx_gpt.commands.evaluate import evaluate
from mlx_gpt.evaluate.metrics import bits_per_byte
from mlx_gpt.models.files import save_model
from mlx_gpt.tokenizer import Tokenizer
from mlx_shards import StreamConfig, TokenStream, local_shards, write_shards

CHOICES = [
    {"query": f"Question: Which is {i}?", "choices": ["a fox", "a dog", "84"], "gold": i % 3}
    for i in range(5)
]
SCHEMAS = [
    {"context_options": ["The fox", "The dog"], "continuation": "jumps over it.", "gold": i % 2}
    for i in range(4)
]
WORDS = [{"context": f"It is {i} and", "continuation": "late"} for i in range(3)]


def write_rows(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture
def run_folder(tiny_model, tokenizer, tmp_path):
    """A run folder with a model in it."""
    folder = tmp_path / "run"
    save_model(tiny_model, folder / "model")
    tokenizer.save(folder / "model")
    return folder


@pytest.fixture
def data(texts, tmp_path):
    """Shards, tasks and problems."""
    write_shards(texts[:40], tmp_path / "shards")
    write_rows(tmp_path / "tasks/which.jsonl", CHOICES)
    write_rows(tmp_path / "tasks/jumps.jsonl", SCHEMAS)
    write_rows(tmp_path / "tasks/last.jsonl", WORDS)
    problems = [{"question": f"{i} plus 0?", "answer": f"#### {i}"} for i in range(3)]
    write_rows(tmp_path / "gsm8k.jsonl", problems)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(evaluate, [str(each) for each in arguments])


def test_everything_is_measured_written_and_printed(run_folder, data, tiny_model, tokenizer, texts):
    result = run(
        "--model", run_folder, "--bpb", data / "shards", "--core", data / "tasks", "--chat",
        data / "tasks", "--gsm8k", data / "gsm8k.jsonl", "--max-tokens", 4, "--shots", 1,
        "--max-per-task", 4,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads((run_folder / "evaluation.json").read_text())
    numbers = ["bits_per_byte", "tokens", "held_out_tokens"]
    assert list(found) == ["model", *numbers, "core", "chat", "seconds"]
    assert found["model"] == str(run_folder)

    # The shards in pretraining's order, each row of the model's length.
    config = StreamConfig(
        64, 16, tokenizer.bos_id, oversize="split", shuffle=False, epochs=1, last_batch="pad"
    )
    stream = TokenStream(local_shards(data / "shards"), tokenizer.encode_batch, config)
    expected = bits_per_byte(tiny_model, stream, tokenizer.token_bytes())
    assert found["bits_per_byte"] == pytest.approx(expected, rel=1e-5)

    core, chat = found["core"]["tasks"], found["chat"]["tasks"]
    assert {name: (task["type"], task["examples"]) for name, task in core.items()} == {
        "jumps": ("schema", 4), "last": ("language_modeling", 3), "which": ("multiple_choice", 4),
    }  # fmt: skip
    assert {name: (task["type"], task["examples"]) for name, task in chat.items()} == {
        "which": ("categorical", 4), "gsm8k": ("generative", 3),
    }  # fmt: skip
    for section in ("core", "chat"):
        tasks = found[section]["tasks"].values()
        for task in tasks:
            above = task["accuracy"] - task["baseline"]
            assert task["centered"] == pytest.approx(above / (1 - task["baseline"]))
        mean = sum(task["centered"] for task in tasks) / len(tasks)
        assert found[section]["score"] == pytest.approx(mean)

    lines = result.stdout.splitlines()
    tokens = sum(map(len, tokenizer.encode_batch(texts[:40]))) + 40
    assert lines[0] == (
        f"bits per byte {found['bits_per_byte']:.4f} over {tokens:,} of {tokens:,} held-out tokens"
    )
    assert lines[2] == "task   type                   n  accuracy  baseline  centered"
    which = core["which"]
    numbers = f"{which['accuracy']:.4f}    0.3333   {which['centered']:>7.4f}"
    assert lines[5] == f"which  multiple_choice        4    {numbers}"
    assert lines[6].split() == ["CORE", f"{found['core']['score']:.4f}"]
    assert len({len(line) for line in lines[2:7]}) == 1
    assert lines[-1].split() == ["ChatCORE", f"{found['chat']['score']:.4f}"]


def test_json_is_the_file_and_a_second_time_gives_the_same(run_folder, data, tmp_path):
    found = []
    for output in (tmp_path / "a", tmp_path / "b/c"):
        result = run(
            "--model", run_folder / "model", "--core", data / "tasks", "--gsm8k",
            data / "gsm8k.jsonl", "--samples", 2, "--max-tokens", 4, "--output", output, "--json",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        printed = json.loads(result.stdout)
        assert printed == json.loads((output / "evaluation.json").read_text())
        found.append(printed | {"seconds": 0})
    assert found[0] == found[1]
    assert list(found[0]["chat"]["tasks"]["gsm8k"]["pass_at"]) == ["1", "2"]
    assert not (run_folder / "model" / "evaluation.json").exists()


def test_bits_per_byte_read_no_more_tokens_than_allowed(run_folder, data):
    values, tokens = [], []
    for most in (1, 200, 100_000, 1_000_000):
        result = run(
            "--model", run_folder, "--bpb", data / "shards", "--bpb-tokens", most,
            "--batch-size", 2, "--json",
        )  # fmt: skip
        found = json.loads(result.stdout)
        values.append(found["bits_per_byte"])
        tokens.append(found["tokens"])
    assert len(set(values)) == 3
    assert values[2] == values[3]
    assert tokens[:2] == [2 * 65, 4 * 65]
    assert {f"{each:,}" for each in tokens[2:]} == {found["held_out_tokens"]}


def test_cropped_documents_are_read_in_part_and_it_says_so(run_folder, data):
    result = run("--model", run_folder, "--bpb", data / "shards", "--oversize", "crop")
    ((read, of),) = re.findall(r"over ([\d,]+) of ([\d,]+) held-out", result.stdout)
    assert 0 < int(read.replace(",", "")) < int(of.replace(",", ""))


def test_to_measure_nothing_is_wrong_usage(run_folder):
    result = run("--model", run_folder)
    assert result.exit_code == 2
    assert result.stderr.endswith(
        "Error: choose what to measure: --perplexity, --exact-match, --choices, --bpb, --core, "
        "--chat, --gsm8k\n"
    )


@pytest.mark.parametrize("option", ["--core", "--chat", "--gsm8k", "--bpb"])
def test_a_malformed_file_is_one_line_and_exit_1(run_folder, tmp_path, capsys, option):
    path = tmp_path / "bad" / "rows.jsonl"
    write_rows(path, [CHOICES[0]])
    path.write_text("nonsense")
    given = path if option in ("--gsm8k", "--bpb") else path.parent
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "--model", str(run_folder), option, str(given)])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert "rows.jsonl" in error
    assert error.count("\n") == 1
    assert not (run_folder / "evaluation.json").exists()


def test_a_tokenizer_of_another_model_is_refused(run_folder, data, texts, capsys):
    Tokenizer.train(texts, 400).save(run_folder / "model")
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "--model", str(run_folder), "--core", str(data / "tasks")])
    assert caught.value.code == 1
    assert capsys.readouterr().err == (
        f"Error: {run_folder / 'model'}: the tokenizer has 400 tokens and the model 384; use "
        "the tokenizer that the model was trained with\n"
    )
