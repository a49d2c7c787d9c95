import math
import re

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.evaluate.metrics import bits_per_byte
from mlx_shards import StreamConfig, TokenStream, local_shards, write_shards


def exactly(message):
    return f"^{re.escape(message)}$"


def reference(model, batches, token_bytes):
    """Return the definition, token by token, from float64 softmaxes of the logits."""
    nats, count = 0.0, 0
    for inputs, targets in batches:
        logits = np.array(model(mx.array(inputs)), np.float64)
        for row, column in np.ndindex(targets.shape):
            target = targets[row, column]
            if target < 0 or token_bytes[target] == 0:
                continue
            scores = logits[row, column]
            nats += math.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[target]
            count += token_bytes[target]
    return nats / (math.log(2) * count)


def random_batches(vocab_size, seed=0, rows=4):
    random = np.random.default_rng(seed)
    ids = random.integers(0, vocab_size, (rows, 33)).astype(np.int32)
    targets = ids[:, 1:].copy()
    targets[random.random(targets.shape) < 0.2] = -1
    return [(ids[:2, :-1], targets[:2]), (ids[2:, :-1], targets[2:])]


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_a_counted_token(tiny_model):
    # All logits are 0. Tokens 0 to 4 stand for 1, 2, 3, 0 (special) and 5 bytes.
    tiny_model.lm_head.weight = mx.zeros_like(tiny_model.lm_head.weight)
    token_bytes = np.array([1, 2, 3, 0, 5], np.int32)
    inputs = np.array([[0, 1, 2, 3], [4, 4, 3, 0]], np.int32)
    targets = np.array([[1, 2, 3, -1], [4, 3, 0, -1]], np.int32)
    # Counted: 1, 2, 4 and 0, which are 2 + 3 + 5 + 1 bytes; not 3, twice, and not the -1.
    expected = 4 * math.log2(tiny_model.config.vocab_size) / 11
    assert bits_per_byte(tiny_model, [(inputs, targets)], token_bytes) == pytest.approx(
        expected, rel=1e-6
    )


def test_it_equals_the_definition_in_float64(tiny_model, tokenizer):
    batches = random_batches(tokenizer.vocab_size)
    token_bytes = tokenizer.token_bytes()
    found = bits_per_byte(tiny_model, batches, token_bytes)
    assert found == pytest.approx(reference(tiny_model, batches, token_bytes), rel=1e-5)


def test_batches_may_be_cut_differently_and_be_mlx_arrays(tiny_model, tokenizer):
    batches = random_batches(tokenizer.vocab_size)
    whole = tuple(mx.array(np.concatenate(parts)) for parts in zip(*batches, strict=True))
    token_bytes = tokenizer.token_bytes()
    assert bits_per_byte(tiny_model, [whole], token_bytes) == pytest.approx(
        bits_per_byte(tiny_model, batches, token_bytes), rel=1e-6
    )


def test_the_batches_of_a_token_stream_are_taken_as_they_are(
    tiny_model, tokenizer, texts, tmp_path
):
    write_shards(texts[:20], tmp_path)
    config = StreamConfig(128, 4, tokenizer.bos_id, "pad", epochs=1, last_batch="pad")
    stream = TokenStream(local_shards(tmp_path), tokenizer.encode_batch, config, arrays="numpy")
    token_bytes = tokenizer.token_bytes()
    found = bits_per_byte(tiny_model, stream, token_bytes)
    stream.reset()
    pairs = [(batch.inputs, batch.targets) for batch in stream]
    assert (pairs[-1][1] == -1).any()  # padding
    assert found == pytest.approx(reference(tiny_model, pairs, token_bytes), rel=1e-5)


@pytest.mark.parametrize("batches", [[], [(np.array([[1, 2]]), np.array([[3, -1]]))]])
def test_without_any_byte_there_is_no_result(tiny_model, batches):
    message = (
        "bits per byte: no target stands for a byte; every target is special or ignored, or there "
        "was no batch"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        bits_per_byte(tiny_model, batches, np.array([1, 1, 1, 0]))


def test_targets_of_another_tokenizer_are_refused(tiny_model):
    batches = [(np.array([[1, 2]]), np.array([[3, 4]]))]
    message = (
        "bits per byte: target 4 is outside of token_bytes, which has 4 entries; both must come "
        "from one tokenizer"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        bits_per_byte(tiny_model, batches, np.array([1, 1, 1, 0]))
