"""`mlx-gpt data check` finds what is wrong with data before a training does."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gpt.commands.data import data
from mlx_gpt.data.inspection import inspect
from mlx_gpt.tokenizer import load_tokenizer
from mlx_gpt.tokenizer.chat_template import BUILT_IN


def exchange(question, answer):
    return {"prompt": question, "completion": answer}


def write(path, *rows):
    path.parent.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def model(write_pretrained, tmp_path):
    """A folder with a tokenizer and the context of a model."""
    folder = write_pretrained(tmp_path / "model", BUILT_IN["chatml"])
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "max_position_embeddings": 64})
    )
    return folder


def check(*arguments):
    return CliRunner().invoke(data, ["check", *map(str, arguments)])


def test_clean_data_is_shown_with_an_example_and_exit_code_0(model, tmp_path):
    path = write(tmp_path / "data/train.jsonl", exchange("Q", "A"), exchange("Q2", "A2"))
    write(tmp_path / "data/valid.jsonl", exchange("Q3", "A"))
    result = check(path.parent, "--model", model)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[:2] == ["train", "  rows        2 of 2 usable: 2 completion"]
    assert (
        "rows are cut after 65 tokens: the model reads 64, the last one is only a target" in lines
    )
    assert lines[-4] == f"{path}, line 1; lines with + are trained on"
    assert lines[-2:] == ["+ A|<|im_end|>", r"  \n"]


def test_what_must_be_looked_at_is_listed_with_exit_code_1(model, tmp_path):
    long = exchange("Q", "long " * 60)
    folder = tmp_path / "data"
    train = [exchange("Q", "A"), exchange("Q", "A"), exchange("R", "B"), long, "{"]
    train.append(exchange("long " * 60, "A"))
    write(folder / "train.jsonl", *train)
    write(folder / "valid.jsonl", exchange("R", "B"), exchange("Q", "C"), exchange("S", "D"))
    result = check(folder, "--model", model, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    where = f"{folder}/train.jsonl"
    assert [line.removeprefix("look at ") for line in result.stderr.splitlines()] == found[
        "look_at"
    ]
    lost = found["splits"]["train"]["lost_tokens"]
    assert found["look_at"] == [
        f"train: skipped 1 of 6 rows as malformed: {where}, line 5: not JSON (Expecting property "
        "name enclosed in double quotes: line 2 column 1 (char 2))",
        f"train: truncated 2 of 6 rows, which lost {lost} tokens",
        f"train: dropped 1 of 6 rows without a token to train on: {where}, line 6",
        "train: 1 rows are copies of earlier ones",
        "1 rows of valid are in train too, and of 2 the question",
    ]
    assert found["max_tokens"] == 64


def test_the_numbers_are_those_of_the_rows(model, tmp_path):
    rows = [exchange("Q" * i, "A") for i in range(1, 20)]
    path = write(tmp_path / "rows.jsonl", *rows)
    found = inspect({"rows": [path]}, load_tokenizer(model)).splits["rows"]
    # Each Q is a token; all else, as the template, is the same number of tokens.
    lengths = found["length"]["max"] - 19 + np.arange(1, 20)
    assert found["tokens"] == lengths.sum()
    assert found["length"]["median"] == np.median(lengths)
    assert found["trained_tokens"] == 2 * 19
    assert found["trained_share"] == 2 * 19 / lengths.sum()
    padded, inputs = found["padded_per_real_token"], lengths - 1
    batches = [inputs[:8], inputs[8:16], inputs[16:]]
    expected = sum(len(each) * each.max() for each in batches) / inputs.sum()
    assert padded["file_order"] == pytest.approx(expected, abs=1e-4)
    # Widths are multiples of 16.
    assert 1 <= padded["sorted"] <= max(-(-inputs // 16) * 16 / inputs) + 0.01
    packed = inspect({"rows": [path]}, load_tokenizer(model), max_tokens=120).splits["rows"]
    packed = packed["padded_per_real_token"]["packed"]
    at_best = -(-inputs.sum() // 120) * 120 / inputs.sum()
    assert at_best - 1e-4 <= packed <= at_best + 120 / inputs.sum() + 1e-4


def test_preferences_and_nanochats_models_are_checked_too(model, tokenizer, tmp_path):
    path = write(tmp_path / "a.jsonl", {"prompt": "Q", "chosen": "good", "rejected": "bad"})
    found = inspect({"pairs": [path]}, load_tokenizer(model)).splits["pairs"]
    assert (found["read"], found["rows"], found["layouts"]) == (1, 2, {"preference": 1})
    tokenizer.save(tmp_path / "run" / "model")
    chats = write(tmp_path / "b.jsonl", exchange("Q", "A"))
    result = check(chats, "--model", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("+ A|<|assistant_end|>\n")
    result = check(chats, "--model", tmp_path / "run", "--chat-template", "chatml")
    assert str(result.exception).endswith("nanochat's models have their own format of chats")


def test_ignored_keys_and_unpaired_surrogates_are_counted(model, tmp_path):
    rows = [
        exchange("Q", "A") | {"id": 7, "source": ""},
        exchange("R", "B\ud800\udfff\ud800") | {"id": 8, "more\ud800": "\ud800"},
        {"instruction": "S", "output": "C", "imput": "x"},
    ]
    files = [write(tmp_path / "a.jsonl", *rows[:2]), write(tmp_path / "b.jsonl", rows[2])]
    result = check(*files, "--model", model)
    assert result.exit_code == 1
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert [line for line in lines if line.startswith("ignored")] == [
        "ignored     keys: id in 2 rows, more\\ud800 in 1 rows",
        "ignored     keys: imput (did you mean 'input'?) in 1 rows",
    ]
    assert result.stderr == (  # a pair is one character, and what is ignored is not replaced
        f"look at {files[0]}: in 1 of 2 rows 1 unpaired surrogates became U+FFFD\n"
    )
    found = json.loads(check(*files, "--model", model, "--json").stdout)["splits"]
    assert found[str(files[0])]["unpaired_surrogates"] == 1
    assert found[str(files[1])]["ignored_keys"] == {"imput (did you mean 'input'?)": 1}


def test_no_key_of_a_sharegpt_turn_is_lost(model, tmp_path):
    turn = {"from": "gpt", "value": "A", "weight": 0}
    path = write(tmp_path / "a.jsonl", {"conversations": [{"from": "human", "value": "Q"}, turn]})
    result = check(path, "--model", model)
    assert "message 2 of 2: weights are not supported" in str(result.exception)
