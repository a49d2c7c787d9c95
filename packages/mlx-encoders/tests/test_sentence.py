"""Against sentence-transformers, through the fixtures of tools/make_fixtures_sentence.py."""

import json
import logging
import shutil

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_encoders import Pooling, SentenceEncoder, cosine_similarity, search
from mlx_encoders.cli import cli

# Float32 on both sides; vectors are of order 1.
TOLERANCE = 1e-5


@pytest.fixture
def sentences(fixtures):
    return json.loads((fixtures / "sentence" / "sentences.json").read_text())


@pytest.fixture
def encoder(fixtures):
    return SentenceEncoder.from_pretrained(fixtures / "sentence" / "mean")


@pytest.mark.parametrize("name", ["mean", "cls", "max-mean"])
def test_embeddings_equal_those_of_sentence_transformers(fixtures, sentences, name, tmp_path):
    folder = fixtures / "sentence" / name
    encoder = SentenceEncoder.from_pretrained(folder)
    expected = np.load(folder / "expected.npz")
    assert encoder.prompts["query"] == "query: "
    for prompt, key in ((None, "plain"), ("query", "query")):
        found = encoder.encode(sentences, prompt_name=prompt)
        assert found.dtype == np.float32
        assert found.shape == expected[key].shape == (4, encoder.embedding_size)
        assert np.abs(found - expected[key]).max() < TOLERANCE
    encoder.save_pretrained(tmp_path)
    again = SentenceEncoder.from_pretrained(tmp_path)
    assert (again.encode(sentences) == encoder.encode(sentences)).all()
    assert again.prompts == encoder.prompts
    assert again.max_length == encoder.max_length == 8


def test_each_pooling_equals_that_of_sentence_transformers(fixtures, sentences, encoder):
    expected = np.load(fixtures / "sentence" / "poolings.npz")
    names = {"lasttoken": "last"}
    for key in set(expected) - {"gradient"}:
        mode, _, prompt = key.partition(" ")
        pooled = SentenceEncoder(
            encoder.model,
            encoder.tokenizer,
            names.get(mode, mode),
            normalize=False,
            max_length=8,
            prompts={"query": "query: "},
            include_prompt=False,
        )
        found = pooled.encode(sentences, prompt_name=prompt or None)
        assert np.abs(found - expected[key]).max() < TOLERANCE, key


def test_gradients_equal_those_of_sentence_transformers(fixtures, sentences):
    encoder = SentenceEncoder.from_pretrained(fixtures / "sentence" / "max-mean")
    batch = encoder.tokenizer.pad(encoder.tokenizer.encode(sentences, encoder.max_length))

    def loss(model):
        vectors = model(**batch)
        return (vectors * mx.linspace(-1, 1, vectors.size).reshape(vectors.shape)).sum()

    _, gradients = nn.value_and_grad(encoder, loss)(encoder)
    found = np.array(gradients["model"]["embeddings"]["word_embeddings"]["weight"])
    expected = np.load(fixtures / "sentence" / "poolings.npz")["gradient"]
    # transformers gives the row of padding no gradient; no padding is pooled here either.
    assert np.abs(found - expected).max() < TOLERANCE


def test_older_folders_load_with_the_same_embeddings(fixtures, sentences, tmp_path):
    """The encoder in a folder of its own, and pooling in the dialect before release 5.5."""
    new = fixtures / "sentence" / "max-mean"
    old = tmp_path / "old"
    shutil.copytree(new, old)
    modules = json.loads((old / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(modules))
    (old / "0_Transformer").mkdir()
    for path in [*old.glob("*.safetensors"), *old.glob("[st]*.json"), old / "config.json"]:
        path.rename(old / "0_Transformer" / path.name)
    modes = {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, **modes}
    (old / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    found = SentenceEncoder.from_pretrained(old).encode(sentences)
    assert np.abs(found - np.load(new / "expected.npz")["plain"]).max() < TOLERANCE


def test_do_lower_case_is_read_and_written(fixtures, sentences, tmp_path, encoder):
    folder = tmp_path / "cased"
    shutil.copytree(fixtures / "sentence" / "mean", folder)
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    cased = SentenceEncoder.from_pretrained(folder).encode(sentences)
    assert np.abs(cased - encoder.encode(sentences)).max() > 0.01
    config = {"max_seq_length": 8, "do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(config))
    lowered = SentenceEncoder.from_pretrained(folder)
    assert (lowered.encode(sentences) == encoder.encode(sentences)).all()
    lowered.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "sentence_bert_config.json").read_text()) == config


@settings(max_examples=15, deadline=None, derandomize=True)
@given(order=st.permutations(range(9)), batch_size=st.integers(1, 12))
def test_order_and_batch_size_change_nothing(fixtures, order, batch_size):
    encoder = SentenceEncoder.from_pretrained(fixtures / "sentence" / "mean")
    texts = ["fire " * n + "forest" for n in range(6)] + ["", "a woman", "near la ronge !"]
    expected = encoder.encode(texts)
    found = encoder.encode([texts[i] for i in order], batch_size)
    assert np.abs(found - expected[order]).max() < TOLERANCE


def test_options_of_encode(encoder, sentences, caplog, capsys):
    raw = encoder.encode(sentences, normalize=False)
    unit = encoder.encode(sentences)
    assert np.abs(np.linalg.norm(unit, axis=1) - 1).max() < 1e-6
    assert np.abs(raw / np.linalg.norm(raw, axis=1, keepdims=True) - unit).max() < 1e-6
    assert encoder.encode(sentences, dtype="float16").dtype == np.float16
    assert encoder.encode([]).shape == (0, 16)
    with caplog.at_level(logging.WARNING):
        encoder.encode(["fire " * 7, "fire", "fire " * 6])
    assert "1 of 3 texts are longer than max_length=8 tokens" in caplog.text
    encoder.encode(sentences, progress=True)
    assert "4 of 4 texts" in capsys.readouterr().err
    encoder.train()
    assert encoder.encode(["fire"]).shape == (1, 16)
    assert encoder.training


def test_pooling_ignores_padding_even_if_it_is_nan():
    hidden = mx.random.normal((2, 6, 4), key=mx.random.key(0))
    valid = mx.array([[True] * 4 + [False] * 2, [False] * 3 + [True] * 3])
    broken = mx.where(valid[..., None], hidden, mx.nan)
    rows = [np.array(hidden[0, :4]), np.array(hidden[1, 3:])]
    expected = {
        "cls": [row[0] for row in rows],
        "last": [row[-1] for row in rows],
        "mean": [row.mean(0) for row in rows],
        "attention": [row.mean(0) for row in rows],  # before training
        "max": [row.max(0) for row in rows],
        "mean+max": [np.concatenate([row.mean(0), row.max(0)]) for row in rows],
    }
    for name, vectors in expected.items():
        found = np.array(Pooling(4, name)(broken, valid))
        assert np.abs(found - np.stack(vectors)).max() < TOLERANCE, name
        empty = np.array(Pooling(4, name)(broken, mx.zeros((2, 6), dtype=mx.bool_)))
        assert (empty == 0).all(), name


def test_attention_pooling_learns_which_token_matters(encoder, tmp_path):
    trained = SentenceEncoder(
        encoder.model, encoder.tokenizer, pooling="attention", normalize=False
    )
    batch = trained.tokenizer.pad(trained.tokenizer.encode(["fire a a a", "a a woman a"]))
    states = trained.model(**batch)
    goal = mx.stack([states[0, 1], states[1, 3]])
    trained.model.freeze()
    assert set(trained.trainable_parameters()["pooling"]) == {"query"}

    def loss(model):
        return mx.square(model(**batch) - goal).mean()

    step, optimizer = nn.value_and_grad(trained, loss), optim.Adam(0.1)
    losses = []
    for _ in range(40):
        value, gradients = step(trained)
        optimizer.update(trained, gradients)
        mx.eval(trained.parameters(), optimizer.state)
        losses.append(float(value))
    assert losses[-1] < 0.8 * losses[0]
    trained.save_pretrained(tmp_path)
    again = SentenceEncoder.from_pretrained(tmp_path)
    assert (again.encode(["fire"]) == trained.encode(["fire"])).all()


def test_search_equals_a_sort_of_all_similarities():
    rng = np.random.default_rng(0)
    queries, corpus = rng.normal(size=(5, 8)), rng.normal(size=(40, 8))
    corpus[7] = corpus[3]  # a tie: the lower index is first
    scores = cosine_similarity(queries, corpus)
    for query, row in zip(queries, scores, strict=True):
        cosines = corpus @ query / np.linalg.norm(corpus, axis=1) / np.linalg.norm(query)
        assert np.abs(row - cosines).max() < 1e-6
    indices, found = search(queries, corpus, top_k=6)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :6]
    assert (indices == expected).all()
    assert np.abs(found - np.take_along_axis(scores, expected, axis=1)).max() < 1e-6
    with pytest.raises(ValueError, match="top_k must be from 1 to the 40 rows of corpus, got 41"):
        search(queries, corpus, top_k=41)
    with pytest.raises(ValueError, match="embed both with the same model"):
        search(queries[:, :4], corpus, top_k=1)


def test_search_in_several_blocks_of_queries_and_corpus():
    corpus = np.tile(np.random.default_rng(0).normal(size=(9000, 16)), (2, 1))  # each row twice
    indices, scores = search(corpus[8400:9000], corpus, top_k=3)
    expected = np.stack([np.arange(8400, 9000), np.arange(17400, 18000)], axis=1)
    assert (np.sort(indices[:, :2], axis=1) == expected).all()
    assert np.abs(scores[:, :2] - 1).max() < 1e-6
    assert (scores[:, 2] < 1 - 1e-6).all()


def test_a_plain_folder_is_pooled_by_the_mean_and_says_so(fixtures, tmp_path, encoder, caplog):
    encoder.model.save_pretrained(tmp_path, encoder.tokenizer)
    with caplog.at_level(logging.WARNING):
        plain = SentenceEncoder.from_pretrained(tmp_path, max_length=8)
    assert "has no modules.json of sentence-transformers: using mean pooling" in caplog.text
    assert (plain.encode(["fire near"]) == encoder.encode(["fire near"])).all()


def test_wrong_arguments_and_folders_are_refused(fixtures, tmp_path, encoder):
    with pytest.raises(ValueError, match="unknown pooling 'means'; did you mean 'mean'"):
        SentenceEncoder(encoder.model, encoder.tokenizer, pooling="means")
    with pytest.raises(TypeError, match="texts must be a sequence of strings, got one"):
        encoder.encode("fire")
    with pytest.raises(TypeError, match=r"texts\[1\] is None"):
        encoder.encode(["fire", None])
    with pytest.raises(ValueError, match="no prompt 'querry'; did you mean 'query'"):
        encoder.encode(["fire"], prompt_name="querry")
    with pytest.raises(ValueError, match="no prompt ''"):
        encoder.encode(["fire"], prompt_name="")
    with pytest.raises(ValueError, match="max_length=99 exceeds the 32 of the model"):
        SentenceEncoder.from_pretrained(fixtures / "sentence" / "mean", max_length=99)
    encoder.save_pretrained(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.CNN"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"modules\.json has the modules Transformer, CNN, Norm"):
        SentenceEncoder.from_pretrained(tmp_path)


def test_the_command_writes_vectors_and_searches(fixtures, tmp_path, sentences, encoder):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences))
    model = ["--model", str(fixtures / "sentence" / "mean")]
    output = tmp_path / "vectors.npy"
    run = CliRunner().invoke(cli, ["embed", str(texts), *model, "--output", str(output)])
    assert run.exit_code == 0, run.output
    assert run.stdout == f"{output}: 4 vectors of size 16\n"
    assert (np.load(output) == encoder.encode(sentences)).all()
    run = CliRunner().invoke(
        cli, ["embed", str(texts), *model, "--query", sentences[1], "--top", "2", "--json"]
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert rows[0] == {"line": 2, "score": 1.0, "text": sentences[1]}
    assert len(rows) == 2
    for wrong in ([], ["--query", "a", "--output", str(output)], ["--output", "vectors.txt"]):
        run = CliRunner().invoke(cli, ["embed", str(texts), *model, *wrong])
        assert run.exit_code == 2, wrong
    run = CliRunner().invoke(
        cli, ["embed", str(texts), *model, "--query", "a", "--query-prompt", "querry"]
    )
    assert run.exit_code == 1
    assert "no prompt 'querry'; did you mean 'query'?" in run.output
    texts.write_text("fire\u2028a\x0cwoman\r\nla ronge\n")  # two lines
    options = ["embed", str(texts), *model, "--output", str(output)]
    run = CliRunner().invoke(cli, options)
    assert run.exit_code == 2
    assert "exists; name another file, or add --overwrite" in " ".join(run.output.split())
    assert len(np.load(output)) == 4  # untouched
    run = CliRunner().invoke(cli, [*options, "--overwrite"])
    assert run.stdout == f"{output}: 2 vectors of size 16\n"
    missing = str(tmp_path / "none" / "vectors.npy")
    run = CliRunner().invoke(cli, ["embed", str(texts), *model, "--output", missing])
    assert run.exit_code == 2
    assert "which is not a folder" in " ".join(run.output.split())
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    run = CliRunner().invoke(cli, ["embed", str(empty), *model, "--query", "a"])
    assert run.exit_code == 1
    assert "has no lines" in run.output
