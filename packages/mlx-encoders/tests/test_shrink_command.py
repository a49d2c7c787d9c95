import json

import mlx.core as mx
import pytest
from click.testing import CliRunner

from mlx_encoders import (
    BertConfig,
    BertForSequenceClassification,
    build_model,
    load_task_model,
    save,
    train_tokenizer,
)
from mlx_encoders.cli import cli

TEXTS = ["forest fire near La Ronge", "residents asked to shelter in place", "fire sank, 7.25 $"]
POOLING = {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 16}


@pytest.fixture
def source(tmp_path):
    """A classifier of three layers, with the pooling of a sentence-transformers folder."""
    tokenizer = train_tokenizer([*TEXTS, "many other words " * 3], vocab_size=300)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        num_labels=3,
    )
    folder = tmp_path / "source"
    save(folder, build_model(config, model_class=BertForSequenceClassification), tokenizer)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    (folder / "modules.json").write_text("[]")
    (folder / "vocab.txt").write_text("[PAD]")
    return folder


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*TEXTS[:2], "", TEXTS[2]]))
    return path


def shrink(source, output, *options):
    run = CliRunner().invoke(
        cli, ["shrink", "--model", str(source), "--output", str(output), *map(str, options)]
    )
    return run


def test_a_trimmed_classifier_keeps_its_head_its_outputs_and_its_pooling(source, texts, tmp_path):
    output = tmp_path / "small"
    output.mkdir()
    (output / "vocab.txt").write_text("[PAD]")
    options = ("--vocabulary-from", texts, "--texts", texts, "--json", "--overwrite")
    refused = shrink(source, output, *options)
    assert refused.exit_code == 1
    assert "has a vocab.txt, whose ids would not be those of the smaller" in refused.output
    (output / "vocab.txt").unlink()
    run = shrink(source, output, *options)
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["tokens_after"] < report["tokens_before"]
    assert report["compared"]["changed"] == report["compared"]["unknown_after"] == 0
    assert report["cosine_min"] > 1 - 1e-5
    assert report["texts"] == report["texts_used"] == 3
    small, _ = load_task_model(output)
    assert isinstance(small, BertForSequenceClassification)
    assert small.config.num_labels == 3
    assert report["parameters_after"] * 4 == report["bytes_after"]
    full, _ = load_task_model(source)
    assert mx.array_equal(small.classifier.weight, full.classifier.weight)
    assert json.loads((output / "1_Pooling" / "config.json").read_text()) == POOLING
    assert (output / "modules.json").read_text() == "[]"
    assert not (output / "vocab.txt").exists()  # not copied: it would have the old ids


def test_all_parts_shrink_at_once_and_the_report_is_text(source, texts, tmp_path):
    output = tmp_path / "small"
    options = ["--layers", "0,2", "--heads", 2, "--units", 8, "--texts", texts, "--most-texts", 2]
    run = shrink(source, output, *options)
    assert run.exit_code == 0, run.output
    assert "layers     [0, 2]\nheads      2\nunits      8\n" in run.stdout
    assert "of the embeddings of 2 of 3 texts\n" in run.stdout
    assert run.stderr == "transformers cannot load this folder: it has heads of one size only\n"
    config = load_task_model(output)[0].config
    assert (config.num_hidden_layers, config.num_attention_heads, config.head_dim) == (2, 2, 4)
    assert config.intermediate_size == 8


def test_wrong_options_are_refused_in_one_line(source, texts, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    for options, code, message in (
        ([], 2, "nothing to remove: give --layers, --heads, --units or --vocabulary-from"),
        (["--layers", "0,x"], 2, "--layers must be numbers such as 0,2,4; got '0,x'"),
        (["--vocabulary-from", empty], 2, f"{empty} has no text"),
        (["--heads", 5], 1, "keep from 1 to 4, got 5"),
    ):
        run = shrink(source, tmp_path / "small", *options)
        assert run.exit_code == code, run.output
        assert message in " ".join(run.output.split())
    run = shrink(source, source, "--layers", "0", "--overwrite")
    assert run.exit_code == 2
    assert "--output is the folder of the model; name another one" in run.output
