"""Perplexity, exact match and choices, beside rivals that need no model."""

import json
import math
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner
from mlx.utils import tree_flatten, tree_unflatten

import mlx_lora
from mlx_gpt.commands.evaluate import evaluate
from mlx_gpt.data.examples import read_examples
from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.evaluate.choices import evaluate_choices, read_choices
from mlx_gpt.evaluate.exact_match import evaluate_exact_match, normalize, read_questions
from mlx_gpt.evaluate.perplexity import evaluate_perplexity, read_held_out
from mlx_gpt.models.adapters import apply_adapter
from mlx_gpt.models.files import load_model, save_model
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.tokenizer import load_tokenizer
from mlx_gpt.tokenizer.chat_template import BUILT_IN


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def chat(question, answer):
    return {"messages": [{"role": "user", "content": question},
                         {"role": "assistant", "content": answer}]}  # fmt: skip


@pytest.fixture
def run_folder(tiny_model, tokenizer, tmp_path):
    """A run folder with a model in it."""
    save_model(tiny_model, tmp_path / "run" / "model")
    tokenizer.save(tmp_path / "run" / "model")
    return tmp_path / "run"


def losses_of(model, example):
    """Return the loss of each trained token by its place, from logits in float64."""
    context, found = model.config.sequence_len, {}
    for begin in range(0, len(example) - 1, context):
        ids = example.ids[begin : begin + context]
        logits = np.array(model(mx.array(ids[None]))[0], np.float64)
        for target, row in enumerate(logits, begin + 1):
            if target < len(example) and example.trained[target]:
                found[target] = np.log(np.exp(row).sum()) - row[example.ids[target]]
    return found


def test_perplexity_is_that_of_every_trained_token(tiny_model, tokenizer, tmp_path):
    long = "The quick brown fox jumps over the lazy dog. " * 12
    files = [write(tmp_path / "a.jsonl", {"text": long}, {"text": "It is 84."}),
             write(tmp_path / "b.jsonl", chat("Which?", "The lazy dog, 東京."))]  # fmt: skip
    examples = read_examples(files, tokenizer).rows
    assert len(examples[0]) > 2 * tiny_model.config.sequence_len
    losses, sizes, tokens = [], [], []
    bytes_of = tokenizer.token_bytes()
    for example in examples:
        for place, loss in losses_of(tiny_model, example).items():
            losses.append(loss)
            tokens.append(example.ids[place])
            sizes.append(bytes_of[example.ids[place]])
    assert len(losses) == sum(each.trained.sum() for each in examples)
    losses, sizes = np.array(losses), np.array(sizes)

    for batch_size in (1, 16):
        advanced = []
        found = evaluate_perplexity(
            tiny_model, tokenizer, read_held_out(files, tokenizer), batch_size, advanced.append
        )
        assert (found["rows"], found["available_rows"], sum(advanced)) == (3, 3, 3)
        assert found["tokens"] == len(losses)
        assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-4)
        bits = losses[sizes > 0].sum() / math.log(2) / sizes.sum()
        assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
        assert found["bytes"] == sizes.sum()
    counts = Counter(tokens)
    unigram = np.array([-math.log(counts[each] / len(tokens)) for each in tokens])
    assert found["unigram"]["loss"] == pytest.approx(unigram.mean())
    bits = unigram[sizes > 0].sum() / math.log(2) / sizes.sum()
    assert found["unigram"]["bits_per_byte"] == pytest.approx(bits)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("  The  Fox.\n", "text", "the fox"),
        ("\uff26ox", "text", "fox"),
        ("so 3 and 1,200.50 remain.", "number", "1200.5"),
        ("5 apples\n#### -7.00\n12 more", "number", "-7"),
        ("none", "number", ""),
        ("-0", "number", "0"),
    ],
)
def test_answers_are_compared_in_one_form(text, kind, expected):
    assert normalize(text, kind) == expected


def test_exact_match_counts_the_greedy_answers_that_are_right(tiny_model, tokenizer, tmp_path):
    engine = Engine(tiny_model, tokenizer)
    questions = ["Which fox?", "Which dog?", "Which day?", "How many?"]
    rows = [chat(each, "the fox") for each in questions]
    asked, _ = read_questions(write(tmp_path / "rows.jsonl", *rows), tokenizer)
    requests = [Request(each.prompt, 4, Sampling(temperature=0.0)) for each in asked]
    answers = [each.text for each in engine.generate(requests)]
    # Two of the expected answers are what the model says.
    expected = [answers[0].upper() + " ", "x", answers[2], "X."]
    rows = [chat(*each) for each in zip(questions, expected, strict=True)]
    path = write(tmp_path / "rows.jsonl", *rows)
    asked, available = read_questions(path, tokenizer)
    assert available == len(asked) == 4
    for batch_size in (1, 3):
        found = evaluate_exact_match(engine, asked, max_tokens=4, batch_size=batch_size)
        assert found["accuracy"] == 0.5
        assert found["most_frequent"] == {"answer": "x", "accuracy": 0.5}
        assert [each["where"] for each in found["wrong"]] == [f"{path}, line 2", f"{path}, line 4"]
    limited, available = read_questions(path, tokenizer, limit=3)
    assert (len(limited), available) == (3, 4)


@pytest.mark.parametrize(
    ("row", "answer", "message"),
    [
        ({"text": "a"}, "text", "line 1: the text layout has no question and answer"),
        (chat("Q", "none"), "number", "line 1: no number in the answer 'none'"),
        ({"prompt": "Q"}, "text", "line 1: a row needs the keys text, or prompt and"),
    ],
)
def test_a_row_without_a_question_or_answer_is_named(row, answer, message, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path / "rows.jsonl", row), tokenizer, answer)


def test_choices_have_three_rivals(tiny_model, tokenizer, tmp_path):
    rows = [
        {"query": f"Question: Which {i}?", "choices": ["fox", "a lazy dog", "84"], "gold": gold}
        for i, gold in enumerate([1, 1, 2, 0])
    ]
    task, available = read_choices(write(tmp_path / "rows.jsonl", *rows))
    found = evaluate_choices(tiny_model, tokenizer, task)
    assert available == found["questions"] == 4
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["most_frequent"] == {"choice": 2, "accuracy": 0.5}
    assert found["longest"] == 0.5
    correct = 0
    for example in task.examples:
        scores = []
        for query, choice in example.pairs:
            ids = tokenizer.prompt_ids(f"{query}\nAnswer: {choice}")
            start = len(tokenizer.prompt_ids(f"{query}\nAnswer:"))
            logits = tiny_model(mx.array([ids]))[0]
            logits = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            scores.append(np.mean([logits[i - 1, ids[i]] for i in range(start, len(ids))]))
        correct += int(np.argmax(scores)) == example.gold
    assert found["accuracy"] == correct / 4
    with pytest.raises(ValueError, match="expected rows with query, choices and gold"):
        read_choices(write(tmp_path / "rows.jsonl", {"context": "a", "continuation": "b"}))


def run(*arguments):
    result = CliRunner().invoke(evaluate, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_prints_each_number_beside_its_rivals(run_folder, tmp_path):
    texts = write(tmp_path / "texts.jsonl", {"text": "The fox."}, {"text": "A dog."})
    sums = write(tmp_path / "sums.jsonl", chat("1+1?", "2"), chat("2+2?", "#### 4"))
    choices = write(tmp_path / "choices.jsonl", {"query": "Q", "choices": ["a", "b"], "gold": 0})
    arguments = ["--model", run_folder, "--perplexity", texts, "--exact-match", sums, "--answer",
                 "number", "--max-tokens", 2, "--choices", choices, "--limit", 1]  # fmt: skip
    lines = run(*arguments).splitlines()
    found = json.loads((run_folder / "evaluation.json").read_text())
    assert list(found) == ["model", "perplexity", "exact_match", "choices", "seconds"]
    perplexity = found["perplexity"]
    assert lines[0] == (f"perplexity over {perplexity['tokens']} tokens of 1 of 2 rows")
    assert lines[2].split() == [
        "model", f"{perplexity['loss']:.4f}", f"{perplexity['perplexity']:,.2f}",
        f"{perplexity['bits_per_byte']:.4f}",
    ]  # fmt: skip
    assert lines[3].split()[:3] == ["unigram,", "no", "context"]
    assert "exact match (the number) over 1 of 2 questions" in lines
    assert any(line.startswith("  most frequent answer  1.0000  (") for line in lines)
    assert "choices over 1 of 1 questions" in lines
    assert json.loads(run(*arguments, "--json")) | {"seconds": 0} == found | {"seconds": 0}


def test_models_of_hugging_face_and_their_adapters_are_measured_too(write_pretrained, tmp_path):
    folder = write_pretrained(tmp_path / "model", BUILT_IN["chatml"])
    vocab_size = load_tokenizer(folder).vocab_size
    model = Llama(LlamaConfig(vocab_size, 32, 48, 2, 4, 2, 8, 64, tie_word_embeddings=True))
    save_model(model, folder)
    rows = write(tmp_path / "rows.jsonl", chat("Q", "A fox."), chat("R", "A dog."))
    choices = write(tmp_path / "choices.jsonl", {"query": "Q", "choices": ["a", "b"], "gold": 0})
    model = load_model(folder)
    mlx_lora.add_adapter(model, mlx_lora.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, array in tree_flatten(model.parameters()):
        if "lora_b" in name.lower():
            model.update(tree_unflatten([(name, mx.full(array.shape, 0.3))]))
    mlx_lora.save_adapter(model, tmp_path / "adapter")
    arguments = ["--model", folder, "--perplexity", rows, "--exact-match", rows, "--choices",
                 choices, "--max-tokens", 3, "--json"]  # fmt: skip
    plain = json.loads(run(*arguments))
    adapted = json.loads(run(*arguments, "--adapter", tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "evaluation.json").is_file()
    (tmp_path / "adapter" / "base.json").write_text(json.dumps({"model": str(folder)}))
    alone = json.loads(run("--model", tmp_path / "adapter", *arguments[2:]))
    assert alone["perplexity"] == adapted["perplexity"]
    held_out = read_held_out([rows], load_tokenizer(folder))
    expected = evaluate_perplexity(model, load_tokenizer(folder), held_out)["loss"]
    assert adapted["perplexity"]["loss"] == pytest.approx(expected, rel=1e-6)
    assert abs(plain["perplexity"]["loss"] - expected) > 1e-3
    assert plain["exact_match"]["questions"] == 2
    with pytest.raises(FileNotFoundError, match="has no adapter: none of"):
        apply_adapter(model, folder, folder)


def test_an_adapter_of_another_model_is_told(tmp_path, caplog):
    folder = tmp_path / "llama"
    save_model(Llama(LlamaConfig(48, 32, 48, 1, 4, 2, 8, 64)), folder)
    model = load_model(folder)
    mlx_lora.add_adapter(model, mlx_lora.LoraConfig(r=2, target_modules=["q_proj"]))
    mlx_lora.save_adapter(model, tmp_path / "adapter")
    for name, told in ((str(folder), False), ("hub/llama", False), (str(tmp_path), True)):
        (tmp_path / "adapter" / "base.json").write_text(json.dumps({"model": name}))
        caplog.clear()
        apply_adapter(load_model(folder), tmp_path / "adapter", folder)
        assert (f"was trained on {name}, and is used on {folder}" in caplog.text) == told
