"""`generate`, `chat` and `bench` with a model of Hugging Face's format, adapters and guesses."""

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner, Result

import mlx_lora
from mlx_gpt.cli import cli
from mlx_gpt.engine.loading import EngineOptions, load_engine, load_fast
from mlx_gpt.engine.requests import Request
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.engine.session import ChatSession
from mlx_gpt.models.files import load_model, save_model
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.tokenizer import PretrainedTokenizer, encode_prompt

Write = Callable[..., Path]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(folder: Path, seed: int, layers: int = 2) -> None:
    tokenizer = PretrainedTokenizer(folder)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64,
        num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        max_position_embeddings=256,
    )  # fmt: skip
    mx.random.seed(seed)
    model = Llama(config)
    save_model(model, folder, tokenizer.sha256)


@pytest.fixture
def folder(tmp_path: Path, write_pretrained: Write) -> Path:
    folder = write_pretrained(tmp_path / "llama", TEMPLATE)
    write_model(folder, seed=0)
    return folder


def run(*arguments: object, text: str | None = None) -> Result:
    result = CliRunner().invoke(cli, [str(each) for each in arguments], input=text)
    assert result.exit_code == 0, result.output
    return result


def test_generate_continues_answers_and_reports_its_speed(folder: Path, tmp_path: Path):
    engine = load_engine(folder, EngineOptions())
    model = ("generate", "--model", folder, "--temperature", 0, "--max-tokens", 9)
    ids = encode_prompt(engine.tokenizer, [{"role": "user", "content": "Hi"}])
    [expected] = engine.generate([Request(ids, 9, Sampling(0))])
    done = run(*model, "--chat", "--prompt", "Hi")
    assert done.stdout == f"{expected.text}\n"
    assert "tokens/s" in done.stderr
    rows = tmp_path / "rows.jsonl"
    chats = [{"prompt": "Hi"}, {"messages": [{"role": "user", "content": "Hi"}]}]
    rows.write_text("".join(json.dumps(each) + "\n" for each in chats))
    found = [json.loads(line) for line in
             run(*model, "--prompts-file", rows, "--json").stdout.splitlines()]  # fmt: skip
    assert found[0]["prompt"] == "Hi"
    assert found[1]["messages"] == chats[1]["messages"]
    assert found[1]["text"] == expected.text != found[0]["text"]


def test_guesses_and_quantized_keys_are_options(
    folder: Path, tmp_path: Path, write_pretrained: Write
):
    model = ("generate", "--model", folder, "--temperature", 0, "--prompt", "a b a b a b")
    plain = run(*model)
    draft = write_pretrained(tmp_path / "draft", TEMPLATE)
    write_model(draft, seed=1, layers=1)
    for guess in (("--ngram", 2), ("--draft-model", draft, "--num-draft-tokens", 3)):
        found = run(*model, *guess)
        assert found.stdout == plain.stdout
        assert "guessed tokens accepted" in found.stderr
    result = CliRunner().invoke(cli, [*map(str, model), "--kv-bits", "4", "--kv-group-size", "32"])
    assert isinstance(result.exception, ValueError)
    assert "have 16 numbers, which groups of 32 do not divide" in str(result.exception)
    assert result.stdout == ""
    both = CliRunner().invoke(cli, [*map(str, model), "--ngram", "2", "--draft-model", str(draft)])
    assert both.exit_code == 2
    assert "exclude each other" in both.output


def test_biases_of_tokens_are_added_to_their_logits(folder: Path):
    model = ("generate", "--model", folder, "--temperature", 0, "--max-tokens", 4, "--prompt", "a")
    tokenizer = PretrainedTokenizer(folder)
    (token,) = tokenizer.encode("x")
    assert run(*model, "--logit-bias", f"{token}=1e4").stdout == "axxxx\n"
    plain = run(*model, "--json").stdout
    assert run(*model, "--json", "--logit-bias", f"{token}=-inf").stdout == plain
    (first, *_) = tokenizer.encode(json.loads(plain)["text"])
    assert run(*model, "--json", "--logit-bias", f"{first}=-inf").stdout != plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--logit-bias", "7"), "'7' is not ID=VALUE"),
        (("--logit-bias", "-1=3"), "'-1=3' is not ID=VALUE"),
        (("--logit-bias", "7=inf"), "'7=inf' is not ID=VALUE"),
        (("--logit-bias", "99999=1"), "--logit-bias 99999: the model has tokens 0 to "),
        (("--kv-bits", "4", "--kv-group-size", "16"), "'16' is not one of '32', '64', '128'"),
    ],
)
def test_wrong_values_are_wrong_usage(folder: Path, arguments: tuple[str, ...], message: str):
    result = CliRunner().invoke(cli, ["generate", "--model", str(folder), *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.stdout == ""


def test_an_adapter_is_merged_for_generation(folder: Path, tmp_path: Path):
    model = load_model(folder)
    mlx_lora.add_adapter(model, mlx_lora.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, layer in model.named_modules():
        if name.endswith("lora_b"):
            layer.weight = mx.ones_like(layer.weight)
    mlx_lora.save_adapter(model, tmp_path / "adapter")
    ids = mx.array([[1, 2, 3, 4]])
    merged, _ = load_fast(folder, tmp_path / "adapter")
    assert not any(isinstance(each, mlx_lora.AdaptedLayer) for each in merged.modules())
    np.testing.assert_allclose(merged(ids), model(ids), atol=1e-4)


def test_each_turn_of_a_template_reads_only_what_is_new(folder: Path):
    engine = load_engine(folder, EngineOptions())
    session = ChatSession(engine, Sampling(0), max_tokens=5, system="Be brief.")
    answers = []
    for text in ("Hi", "Why?", "How?"):
        first = "".join(piece.text for piece in session.ask(text))
        messages = session.conversation()["messages"][:-1]
        assert messages[0] == {"role": "system", "content": "Be brief."}
        ids = encode_prompt(engine.tokenizer, messages)
        assert first == engine.generate([Request(ids, 5, Sampling(0))])[0].text
        answers.append(first)
    [kept] = [session.conversation()]
    session.load(kept)
    assert session.conversation() == kept
    assert session.undo() == "How?"
    assert "".join(piece.text for piece in session.ask("How?")) == answers[-1]


def test_chat_answers_in_the_models_format(folder: Path):
    found = run("chat", "--model", folder, "--max-tokens", 4, "--seed", 1, text="Hi\nWhy?\n")
    assert len(found.stdout.splitlines()) >= 2


def test_bench_shows_each_length_and_batch(folder: Path):
    options = ("--prompt-tokens", "4,8", "--batch", "1,2", "--tokens", 3, "--repeats", 1)
    lines = run("bench", "--model", folder, *options, "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["prompt"], row["batch"]) for row in rows] == [(4, 1), (4, 2), (8, 1), (8, 2)]
    assert all(value > 0 for row in rows for value in row.values())
    table = run("bench", "--model", folder, *options, "--ngram", 2, "--batch", "1").stdout
    assert table.splitlines()[0].startswith("prompt  batch  prefill tok/s")
    wrong = CliRunner().invoke(cli, ["bench", "--model", str(folder), "--batch", "0"])
    assert wrong.exit_code == 2
    assert "expected numbers of 1 or more with commas between, got '0'" in wrong.output
