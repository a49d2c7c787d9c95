import os
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_encoders import (
    BertConfig,
    ModernBertConfig,
    NeoBertConfig,
    build_model,
    train_tokenizer,
)
from mlx_encoders.masking import Masking
from mlx_encoders.pretraining import masked_lm_loss_of, pretrain
from mlx_encoders.pretraining_settings import PretrainingSettings
from mlx_encoders.tasks import TASK_CLASSES

# A document repeats one letter, so that its other tokens tell a hidden one.
TEXTS = [" ".join(letter * 30) for letter in "abcdefghij"] * 6
CLASSES = {
    "bert": "BertForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
    "neobert": "NeoBERTLMHead",
}
SETTINGS = PretrainingSettings(
    length=16, batch_size=16, steps=6, learning_rate=1e-2, held_out_share=0.1
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=110)


def make_model(tokenizer, kind="bert", dropout=0.1):
    sizes = {"vocab_size": tokenizer.vocab_size, "hidden_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 24}
    config = {
        "bert": lambda: BertConfig(
            **sizes,
            max_position_embeddings=32,
            initializer_range=0.2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=0.0,
        ),
        "modernbert": lambda: ModernBertConfig(
            **sizes, local_attention=8, pad_token_id=0, initializer_range=0.2
        ),
        "neobert": lambda: NeoBertConfig(**sizes),
    }[kind]()
    return build_model(config, seed=1, model_class=TASK_CLASSES[CLASSES[kind]])


def weights(model):
    return {name: np.array(array) for name, array in tree_flatten(model.parameters())}


@pytest.mark.parametrize("kind", CLASSES)
def test_training_learns_what_token_frequencies_cannot(tokenizer, kind):
    model = make_model(tokenizer, kind)
    report = pretrain(model, tokenizer, TEXTS, replace(SETTINGS, steps=40))
    assert report.loss_before > report.unigram_loss
    assert report.loss_after < 0.6 * report.unigram_loss
    assert (report.documents, report.held_out_documents, report.empty_documents) == (54, 6, 0)
    assert report.tokens == 54 * 30
    assert not model.training


def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(tokenizer, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    whole, steps = make_model(tokenizer), []
    expected = pretrain(whole, tokenizer, TEXTS, SETTINGS, report=steps.append)

    class Killed(Exception):
        pass

    def kill(step):
        if step.step == 5:
            raise Killed

    options = {"checkpoint": path, "checkpoint_every": 2}
    with pytest.raises(Killed):
        pretrain(make_model(tokenizer), tokenizer, TEXTS, SETTINGS, report=kill, **options)
    resumed, later = make_model(tokenizer), []
    found = pretrain(resumed, tokenizer, TEXTS, SETTINGS, report=later.append, **options)
    assert later == steps[4:]
    assert found == expected
    for name, array in weights(whole).items():
        assert np.array_equal(array, weights(resumed)[name]), name
    with pytest.raises(
        ValueError,
        match=r"checkpoint\.safetensors is of another model, other texts or other settings; "
        r"delete it to start again, or give what it was made with$",
    ):
        pretrain(resumed, tokenizer, TEXTS[1:], SETTINGS, **options)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged \(.*\); delete it"):
        pretrain(resumed, tokenizer, TEXTS, SETTINGS, **options)


def test_the_compiled_update_equals_the_plain_one(tokenizer):
    def run():
        model, losses = make_model(tokenizer), []
        pretrain(model, tokenizer, TEXTS, SETTINGS, report=lambda step: losses.append(step.loss))
        return weights(model), losses

    compiled, compiled_losses = run()
    mx.disable_compile()
    try:
        plain, plain_losses = run()
    finally:
        mx.enable_compile()
    # A rate or a mask that the compiled function kept as a constant would differ by 1e-2.
    assert compiled_losses == pytest.approx(plain_losses, abs=1e-4)
    for name, array in plain.items():
        assert np.abs(array - compiled[name]).max() < 1e-3, name


def test_the_gradient_at_positions_is_that_of_all_logits(tokenizer):
    model = make_model(tokenizer, dropout=0.0)
    random = np.random.default_rng(0)
    ids = random.integers(5, 40, (2, 8)).astype(np.int32)
    labels = np.where(random.random(ids.shape) < 0.4, ids, -100)
    flat = np.flatnonzero(labels != -100)

    def dense(parameters):
        model.update(parameters)
        logits = model.logits(model.encoder_model(ids)).astype(mx.float32)
        chosen = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return -chosen.reshape(16, -1)[mx.array(flat), mx.array(labels.reshape(-1)[flat])].mean()

    def sparse(parameters):
        model.update(parameters)
        positions = mx.array(np.append(flat, 0))  # one of padding
        chosen = mx.array(np.append(labels.reshape(-1)[flat], -100))
        return masked_lm_loss_of(model, mx.array(ids), None, positions, chosen)

    parameters = model.trainable_parameters()
    expected, found = (dict(tree_flatten(mx.grad(f)(parameters))) for f in (dense, sparse))
    for name, array in expected.items():
        assert mx.abs(array - found[name]).max() < 1e-5, name


def test_each_epoch_hides_other_tokens_and_seeds_differ(tokenizer):
    def losses(**changes):
        # With one row, and a rate that changes nothing, only the masks differ.
        settings = replace(SETTINGS, learning_rate=1e-20, steps=3, length=34, **changes)
        steps = []
        model = make_model(tokenizer, "modernbert")
        pretrain(
            model, tokenizer, TEXTS[:1], settings, held_out_texts=TEXTS[1:2], report=steps.append
        )
        return [(step.epoch, step.loss) for step in steps]

    first = losses()
    assert [epoch for epoch, _ in first] == [0, 1, 2]
    assert len({loss for _, loss in first}) == 3
    assert first == losses()
    assert first != losses(seed=1)


def test_short_rows_and_whole_words_train_too(tokenizer):
    settings = replace(SETTINGS, join=False, steps=None, masking=Masking(0.3, whole_word=True))
    texts = ["one two", "", *TEXTS[:20]]
    report = pretrain(make_model(tokenizer), tokenizer, texts, settings)
    assert report.empty_documents == 1
    assert report.steps > 0
    assert np.isfinite([report.loss_before, report.loss_after]).all()


def test_the_rate_rises_and_falls_linearly():
    settings = PretrainingSettings(learning_rate=1.0, warmup_share=0.2)
    rates = [settings.rate(step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert PretrainingSettings(learning_rate=1.0, warmup_share=0.0).rate(0, 4) == 1


def test_norms_and_biases_have_no_weight_decay(tokenizer):
    model = make_model(tokenizer, dropout=0.0)
    before = weights(model)
    settings = replace(SETTINGS, steps=1, learning_rate=1e-3, warmup_share=0)
    changes = {}
    for decay in (0.0, 1.0):
        pretrain(model, tokenizer, TEXTS, replace(settings, weight_decay=decay))
        changes[decay] = weights(model)
        model.load_weights([(name, mx.array(array)) for name, array in before.items()])
    for name, array in before.items():
        expected = 1e-3 * array if array.ndim > 1 else 0
        assert np.abs(changes[0.0][name] - changes[1.0][name] - expected).max() < 1e-6, name


def test_a_loss_that_is_not_finite_stops_the_training(tokenizer):
    model = make_model(tokenizer, dropout=0.0)
    embeddings = model.encoder_model.get_input_embeddings()
    embeddings.weight = embeddings.weight * mx.inf
    with pytest.raises(
        FloatingPointError, match=r"^the loss of update 1 is nan; lower learning_rate \(0\.01\)$"
    ):
        pretrain(model, tokenizer, TEXTS, SETTINGS)


def test_an_encoder_without_a_head_is_refused(tokenizer):
    with pytest.raises(
        TypeError,
        match=r"^pretraining needs a class for masked language modeling, such as "
        r"BertForMaskedLM; got BertModel$",
    ):
        pretrain(make_model(tokenizer).encoder_model, tokenizer, TEXTS)


def test_too_few_documents_are_refused(tokenizer):
    with pytest.raises(
        ValueError,
        match=r"^pretraining needs documents to train on and documents held out, got 0 and 1, "
        r"besides 1 without any token$",
    ):
        pretrain(make_model(tokenizer), tokenizer, ["one", ""], SETTINGS)


def test_held_out_documents_without_a_hidden_token_are_refused(tokenizer):
    settings = replace(SETTINGS, masking=Masking(1e-6))
    with pytest.raises(
        ValueError,
        match=r"^the documents held out are too short to predict a token of; hold out more$",
    ):
        pretrain(make_model(tokenizer), tokenizer, TEXTS, settings)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer):
    other = train_tokenizer(["zebra crossing " * 5], vocab_size=125)
    with pytest.raises(
        ValueError,
        match=rf"^the tokenizer has {other.vocab_size} tokens, but the model has embeddings for "
        rf"{tokenizer.vocab_size}; use the tokenizer of this model$",
    ):
        pretrain(make_model(tokenizer), other, TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, or None for whole epochs; got 0"),
        ({"held_out_share": 1.0}, r"held_out_share must be in \[0, 1\), got 1.0"),
        (
            {"learning_rate": 0.0},
            "learning_rate and max_grad_norm must be positive and weight_decay not negative, "
            "got 0.0, 1.0 and 0.01",
        ),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        PretrainingSettings(**options)


@pytest.mark.skipif(
    not os.environ.get("MLX_ENCODERS_PROSE"),
    reason="MLX_ENCODERS_PROSE does not name a parquet file of prose",
)
def test_the_loss_decreases_on_prose():
    from mlx_encoders.text_files import read_texts

    texts = list(read_texts([os.environ["MLX_ENCODERS_PROSE"]]))[:60]
    tokenizer = train_tokenizer(texts, vocab_size=1000)
    settings = PretrainingSettings(length=64, steps=60, learning_rate=2e-3)
    report = pretrain(make_model(tokenizer), tokenizer, texts, settings)
    assert report.loss_after < report.loss_before
