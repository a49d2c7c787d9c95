"""`mlx-encoders export` on tiny folders."""

import json

import pytest
from click.testing import CliRunner

pytest.importorskip("onnxruntime", reason="needs mlx-encoders[onnx]")

from mlx_encoders import BertConfig, build_model, save, train_tokenizer
from mlx_encoders.cli import cli
from mlx_encoders.tasks import TASK_CLASSES

TEXTS = ["good text", "bad text", "good, very good", "bad, very bad"]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


@pytest.fixture(params=[None, "BertForSequenceClassification"])
def model_folder(request, tmp_path):
    if request.param is not None and request.param not in TASK_CLASSES:
        pytest.skip("no task classes")
    tokenizer = train_tokenizer(TEXTS, kind="wordpiece", vocab_size=120)
    config = BertConfig(vocab_size=tokenizer.vocab_size, id2label={0: "good", 1: "bad"}, **SIZES)
    chosen = None if request.param is None else TASK_CLASSES[request.param]
    save(tmp_path / "model", build_model(config, model_class=chosen), tokenizer)
    return tmp_path / "model"


def run(*arguments):
    result = CliRunner().invoke(cli, ["export", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_it_writes_a_folder_and_prints_what_was_measured(model_folder, tmp_path):
    out = tmp_path / "out"
    arguments = ["--model", model_folder, "--output", out]
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["file"] == str(out / "model.onnx")
    assert values["max_difference"] < 1e-5
    assert values["milliseconds_for_64_tokens"] > 0
    assert {"config.json", "model.onnx", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"{out} is not empty; name another folder, or add --overwrite" in result.output
    result = run(*arguments, "--overwrite", "--pooling", "mean", "--normalize", "--int8")
    assert result.exit_code == 0, result.output
    assert "int8 cosine: 0.9" in result.stdout


def test_labels_are_ids_or_names(model_folder, tmp_path):
    if json.loads((model_folder / "config.json").read_text())["architectures"] == ["BertModel"]:
        pytest.skip("an encoder has no classes")
    table = tmp_path / "texts.csv"
    table.write_text(
        "text,label\n" + "".join(f'"{text}",{i % 2}\n' for i, text in enumerate(TEXTS))
    )
    arguments = ["--model", model_folder, "--check", table, "--label-column", "label"]
    by_id = json.loads(run(*arguments, "--output", tmp_path / "a", "--json").stdout)
    table.write_text(table.read_text().replace(",0\n", ",good\n").replace(",1\n", ",bad\n"))
    by_name = json.loads(run(*arguments, "--output", tmp_path / "b", "--json").stdout)
    assert by_id["accuracy"] == by_name["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    table.write_text("text,label\na,good\nb,fine\n")
    result = run(*arguments, "--output", tmp_path / "c")
    assert result.exit_code == 1
    assert (
        "texts.csv, row 3: label is 'fine', which is not a class of the model: 0, 1, good, bad"
        in (result.output)
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--label-column", "label"], 2, "--label-column needs --check"),
        (["--format", "coreml", "--int8"], 2, "--int8 needs ONNX"),
        (["--normalize"], 1, "normalize is for embeddings: name a pooling too, such as 'mean'"),
        (["--model", "/nowhere"], 1, "no folder '/nowhere'"),
    ],
)
def test_errors_are_one_line(arguments, code, message, model_folder, tmp_path):
    result = run("--model", model_folder, "--output", tmp_path / "out", *arguments)
    assert result.exit_code == code
    assert result.output.rstrip().endswith(message)
