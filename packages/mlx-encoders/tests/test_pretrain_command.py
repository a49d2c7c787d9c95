import json

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_encoders import BertConfig, build_model, load, load_model, save, train_tokenizer
from mlx_encoders.cli import cli
from mlx_encoders.pretraining import masked_lm_class

WORDS = list("abcdefghij")
TEXTS = [" ".join(WORDS[(start + i) % 10] for i in range(30)) for start in range(20)]
OPTIONS = ["--length", "16", "--batch-size", "16", "--learning-rate", "0.01", "--json"]


@pytest.fixture
def folder(tmp_path):
    tokenizer = train_tokenizer(TEXTS, vocab_size=110)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        attention_probs_dropout_prob=0.0,
    )
    save(tmp_path / "encoder", build_model(config), tokenizer)
    rows = "".join(json.dumps({"body": text}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(rows[: len(rows) // 20 * 10])
    (tmp_path / "b.jsonl").write_text(rows[len(rows) // 20 * 10 :])
    return tmp_path


def run(folder, *arguments):
    data = ["--data", str(folder / "*.jsonl"), "--column", "body"]
    places = ["--model", str(folder / "encoder"), "--output", str(folder / "out")]
    return CliRunner().invoke(cli, ["pretrain", *data, *places, *OPTIONS, *arguments])


def test_the_output_loads_as_an_encoder_and_with_its_head(folder):
    result = run(folder, "--steps", "30")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["loss_after"] < report["loss_before"]
    assert (report["documents"], report["steps"], report["tokens"]) == (19, 30, 570)
    assert "the checkpoint has no head: 5 new tensors" in result.stderr
    assert "step 30/30  loss " in result.stderr
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    encoder, tokenizer = load(folder / "out")
    ids = tokenizer.pad(tokenizer.encode(TEXTS[:2], 16))
    model, _ = load_model(folder / "out", model_class=masked_lm_class(encoder.config))
    assert np.array_equal(np.array(model.encoder_model(**ids)), np.array(encoder(**ids)))
    assert model.logits(encoder(**ids)).shape[-1] == tokenizer.vocab_size


def test_a_stopped_run_is_resumed_only_when_asked(folder):
    stopped = run(folder, "--steps", "4", "--checkpoint-every", "2", "--learning-rate", "1e30")
    assert stopped.exit_code == 1
    checkpoint = folder / "out" / "pretraining.safetensors"
    if not checkpoint.exists():
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_bytes(b"")
    refused = run(folder, "--steps", "4")
    assert refused.exit_code == 2
    assert "pretraining.safetensors is of a stopped run; add --resume or --over" in refused.output
    other = run(folder, "--steps", "3", "--resume")
    assert other.exit_code == 1
    assert "Error:" in other.output
    again = run(folder, "--steps", "1", "--overwrite", "--fresh")
    assert again.exit_code == 0, again.output
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "nothing/*.txt"], 2, "no file matches 'nothing/*.txt'"),
        (["--resume"], 2, "to resume from; leave out --resume"),
        (["--column", "text"], 1, "a.jsonl:1: no key 'text', got ['body']"),
        (["--length", "64"], 1, "max_position_embeddings"),
    ],
)
def test_bad_input_is_one_line(folder, arguments, code, message):
    result = run(folder, *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output
