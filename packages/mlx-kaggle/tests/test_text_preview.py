"""`mlx-kaggle text`: texts and token lengths without a training."""

import json

import numpy as np
import pytest

from mlx_kaggle.training.token_lengths import differences


def test_lengths_costs_and_cuts_agree(run_cli, write_csv, passengers):
    train = write_csv("train.csv", passengers(80))
    done = run_cli("text", "--train", train, "--target", "Survived", "--rows", "3", "--json",
                   "--set", "text.max_tokens=20")  # fmt: skip
    found = json.loads(done.stdout)
    assert found["rows"] == found["of"] == 80
    assert sum(count for _, _, count in found["histogram"]) == 80
    assert len(found["texts"]) == 3
    longest = found["texts"][0]
    assert longest["tokens"] > 20 >= longest["kept_tokens"]
    assert longest["cut"]
    assert longest["cut"][0].split(":")[0] not in longest["kept"]
    assert set(found["columns"]) == {"Pclass", "Sex", "Age", "Fare"}
    assert sum(found["columns"].values()) == pytest.approx(found["mean_tokens"] - 2, abs=2)
    assert found["rows_shortened"] == round(80 * found["share_above"])


def test_the_terminal_shows_bars_and_the_share_above_the_budget(run_cli, write_csv, passengers):
    train = write_csv("train.csv", passengers(80))
    done = run_cli("text", "--train", train, "--target", "Survived", "--set",
                   "text.style=sentence")  # fmt: skip
    assert "The sex is" in done.stdout
    assert "█" in done.stdout
    assert "0.0% of the rows are longer than text.max_tokens (192)" in done.stdout


def test_a_tokenizer_of_an_encoder_counts(run_cli, write_csv, passengers, tiny_modernbert):
    train = write_csv("train.csv", passengers(40))
    done = run_cli("text", "--train", train, "--target", "Survived", "--json", "--encoder",
                   tiny_modernbert)  # fmt: skip
    assert json.loads(done.stdout)["tokenizer"] == tiny_modernbert


def test_wrong_settings_exit_with_two(run_cli, write_csv, passengers):
    train = write_csv("train.csv", passengers(20))
    assert "Missing option '--train'" in run_cli("text", code=2).stderr
    done = run_cli("text", "--train", train, "--target", "Survived", "--set", "text.stile=x",
                   code=2)  # fmt: skip
    assert "did you mean" in done.stderr


def test_differences_are_the_words_that_are_cut():
    whole, kept = "sex: male; age: 22; fare: 7.25", "sex: male; fare: 7.25"
    parts = differences(whole, kept)
    assert [part for part, is_kept in parts if not is_kept] == ["age: 22;"]
    assert " ".join(part for part, _ in parts) == whole
    assert np.all([is_kept for _, is_kept in differences(kept, kept)])
