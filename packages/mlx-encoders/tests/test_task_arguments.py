"""Task models: shapes of multiple choice, masks, means in half precision, dropout of heads."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_encoders import (
    BertConfig,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForSequenceClassification,
    BertForTokenClassification,
    ModernBertConfig,
    ModernBertForMultipleChoice,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    NeoBertConfig,
    NeoBertForSequenceClassification,
    build_model,
)
from mlx_encoders.tasks.choices import mean_of_valid

TOLERANCE = 1e-5  # see test_parity.py


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (BertForMultipleChoice, BertConfig(30, 16, 1, 2, 32)),
        (ModernBertForMultipleChoice, ModernBertConfig(30, 16, 24, 1, 2)),
    ],
)
def test_every_argument_of_multiple_choice_has_an_axis_of_choices(model_class, config):
    model = build_model(config, model_class=model_class)
    ids = np.arange(24).reshape(2, 3, 4)
    expected = model(ids)
    assert expected.shape == (2, 3)
    positions, ones = np.arange(4), np.ones_like(ids)
    for same in (
        {"position_ids": positions},
        {"position_ids": np.broadcast_to(positions, ids.shape)},
        {"segment_ids": ones, "attention_mask": ones[..., ::-1]},
        {"input_ids": None, "inputs_embeds": model.encoder_model.get_input_embeddings()(
            mx.array(ids))},
    ):  # fmt: skip
        found = model(**{"input_ids": ids, **same})
        assert np.abs(np.array(found - expected)).max() < TOLERANCE
    for wrong, message in (
        ({"input_ids": ids[0]}, r"^input_ids must be \(batch, choices, length\), got \(3, 4\)$"),
        (
            {"inputs_embeds": mx.ones((2, 4, 16))},
            r"^inputs_embeds must be \(batch, choices, length, hidden_size\), got \(2, 4, 16\)$",
        ),
        (
            {"input_ids": ids, "attention_mask": ones[:, 0]},
            r"^attention_mask must have the shape \(2, 3, 4\), got \(2, 4\)$",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model(**wrong)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_reversed_view_of_a_mask_is_read_and_no_row_may_be_empty(pooling):
    config = ModernBertConfig(30, 16, 24, 1, 2, classifier_pooling=pooling)
    model = build_model(config, model_class=ModernBertForSequenceClassification)
    ids = np.arange(24).reshape(3, 8)
    valid = (np.arange(8) < np.array([[8], [3], [0]]))[:, ::-1]
    logits = model(ids, valid)
    assert mx.array_equal(logits, model(ids, mx.array(valid.copy())))
    assert bool(mx.isfinite(logits).all())
    alone = model(ids[1:2, -3:])
    assert np.abs(np.array(logits[1:2] - alone)).max() < TOLERANCE


@pytest.mark.parametrize("masked", [False, True])
def test_the_mean_of_many_large_half_precision_states_does_not_overflow(masked):
    hidden = mx.full((1, 8192, 4), 10.0, mx.float16)
    mean = mean_of_valid(hidden, mx.ones((1, 8192)) if masked else None)
    assert mean.dtype == mx.float16
    assert mean.tolist() == [[10.0] * 4]


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (BertForSequenceClassification, BertConfig(30, 64, 1, 2, 32, num_labels=64)),
        (BertForTokenClassification, BertConfig(30, 64, 1, 2, 32, num_labels=64)),
        (ModernBertForSequenceClassification, ModernBertConfig(30, 64, 24, 1, 2, num_labels=64)),
        (ModernBertForTokenClassification, ModernBertConfig(30, 64, 24, 1, 2, num_labels=64)),
    ],
)
def test_training_drops_inputs_of_the_classifier(model_class, config):
    config = replace(config.with_dropout(0.0, 0.0), classifier_dropout=0.25)
    model = build_model(config, model_class=model_class)
    model.classifier.weight, model.classifier.bias = mx.eye(64), mx.zeros(64)
    ids = np.arange(24).reshape(3, 8)
    kept = np.array(model(ids))
    mx.random.seed(0)
    model.train()
    found = np.array(model(ids))
    dropped = found == 0
    assert abs(dropped.mean() - 0.25) < 0.1
    assert np.abs(found - kept / 0.75)[~dropped].max() < TOLERANCE


def test_bert_classifies_with_its_hidden_dropout_unless_it_has_another():
    config = BertConfig(hidden_dropout_prob=0.3, num_hidden_layers=1)
    for changes, dropped in (({}, 0.3), ({"classifier_dropout": 0.0}, 0.0)):
        model = BertForSequenceClassification(replace(config, **changes))
        share = (model.dropout(mx.ones(10_000)) == 0).mean()
        assert abs(float(share) - dropped) < 0.03


def test_neobert_drops_before_and_after_its_dense_layer():
    config = NeoBertConfig(30, 64, 24, 1, 2, num_labels=64, classifier_dropout=0.5)
    model = build_model(config, model_class=NeoBertForSequenceClassification)
    for layer in (model.dense, model.classifier):
        layer.weight, layer.bias = mx.eye(64), mx.zeros(64)
    ids = np.arange(24).reshape(3, 8)
    first = np.array(model.model(ids))[:, 0]
    mx.random.seed(0)
    model.train()
    found = np.array(model(ids))
    dropped = found == 0
    assert abs(dropped.mean() - 0.75) < 0.1
    assert np.abs(found - 2 * np.tanh(2 * first))[~dropped].max() < TOLERANCE


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (BertForSequenceClassification, BertConfig(30, 16, 1, 2, 32)),
        (BertForNextSentencePrediction, BertConfig(30, 16, 1, 2, 32)),
        (ModernBertForSequenceClassification, ModernBertConfig(30, 16, 24, 1, 2)),
        (NeoBertForSequenceClassification, NeoBertConfig(30, 16, 24, 1, 2)),
    ],
)
def test_classifiers_of_rows_refuse_packed_rows(model_class, config):
    model = build_model(config, model_class=model_class)
    ids = mx.ones((1, 6), dtype=mx.int32)
    segments = mx.array([[1, 1, 1, 2, 2, 2]])
    with pytest.raises(ValueError, match=r"has one output for each row.*pool_segments"):
        model(ids, segment_ids=segments)
    assert model(ids).shape == (1, 2)
