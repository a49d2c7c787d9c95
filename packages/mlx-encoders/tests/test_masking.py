import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_encoders import (
    BertConfig,
    ModernBertConfig,
    NeoBertConfig,
    Tokenizer,
    train_tokenizer,
)
from mlx_encoders.masking import (
    Masking,
    encode_words,
    mask_tokens,
    masked_lm_loss,
    masked_positions,
    masking_of,
)

TEXTS = ["The whale swam past 12 ships; unbelievable!", "Ships and whales, whales and ships."]
relaxed = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    size = {"wordpiece": 110, "bpe": 300}[request.param]
    return train_tokenizer(TEXTS * 3, kind=request.param, vocab_size=size)


def special_ids(tokenizer):
    return [tokenizer.special_id(f"{role}_token") for role in ("pad", "unk", "cls", "sep", "mask")]


def make_ids(tokenizer, shape=(20, 100), seed=0):
    """Rows of [CLS], ordinary and unknown tokens, [SEP] and padding."""
    pad, unknown, cls, sep, _ = special_ids(tokenizer)
    ids = np.random.default_rng(seed).integers(5, tokenizer.vocab_size, shape).astype(np.int32)
    ids[:, 0], ids[:, 10], ids[:, -9], ids[:, -8:] = cls, unknown, sep, pad
    return ids


@relaxed
@given(probability=st.floats(0.01, 1), seed=st.integers(0, 1000), whole_word=st.booleans())
def test_special_tokens_are_never_hidden_nor_inserted(tokenizer, probability, seed, whole_word):
    ids = make_ids(tokenizer, (3, 40), seed)
    masking = Masking(probability, 0.5, 0.5, whole_word)
    starts = np.random.default_rng(seed).random(ids.shape) < 0.5
    masked, labels = mask_tokens(ids, tokenizer, masking, np.random.default_rng(seed), starts)
    chosen = labels != -100
    special = np.isin(ids, special_ids(tokenizer))
    mask_id = tokenizer.special_id("mask_token")
    assert not (chosen & special).any()
    assert (masked[~chosen] == ids[~chosen]).all()
    assert (labels[chosen] == ids[chosen]).all()
    inserted = masked[chosen & (masked != mask_id)]
    assert not np.isin(inserted, special_ids(tokenizer)).any()
    assert masked.dtype == labels.dtype == ids.dtype


@relaxed
@given(probability=st.floats(0.01, 1), seed=st.integers(0, 1000))
def test_each_row_has_its_expected_number_of_labels_rounded(tokenizer, probability, seed):
    ids = make_ids(tokenizer, (8, 60), seed)
    _, labels = mask_tokens(ids, tokenizer, Masking(probability), np.random.default_rng(seed))
    expected = probability * (~np.isin(ids, special_ids(tokenizer))).sum(axis=1)
    counts = (labels != -100).sum(axis=1)
    assert (np.abs(counts - expected) < 1 + 1e-9).all()


def test_a_fraction_of_a_label_is_a_label_in_that_fraction_of_rows(tokenizer):
    ids = make_ids(tokenizer, (4000, 20))  # 9 ordinary tokens a row, 1.35 labels
    ids[:, 10] = special_ids(tokenizer)[0]
    _, labels = mask_tokens(ids, tokenizer, Masking(0.15), np.random.default_rng(0))
    ordinary = (~np.isin(ids, special_ids(tokenizer))).sum(axis=1)
    # Standard deviation of the mean of 4000 draws: 0.0076
    assert abs((labels != -100).sum(axis=1).mean() - 0.15 * ordinary.mean()) < 0.03


def test_of_the_labels_8_in_10_are_mask_and_1_in_10_is_random(tokenizer):
    ids = make_ids(tokenizer, (200, 2000))
    masked, labels = mask_tokens(ids, tokenizer, Masking(), np.random.default_rng(0))
    chosen = labels != -100
    shares = [
        (masked[chosen] == tokenizer.special_id("mask_token")).mean(),
        (masked[chosen] == ids[chosen]).mean(),
    ]
    # 59,700 labels: standard deviations of 0.0016 and 0.0012
    assert abs(shares[0] - 0.8) < 0.007
    kept_by_chance = 0.1 / (tokenizer.vocab_size - 5)
    assert abs(shares[1] - 0.1 - kept_by_chance) < 0.006
    inserted = masked[chosen & (masked != ids)]
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), special_ids(tokenizer))
    assert set(ordinary) <= set(inserted)


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_all_labels_may_be_mask_or_random_or_kept(tokenizer, shares):
    ids = make_ids(tokenizer, (20, 200))
    masked, labels = mask_tokens(ids, tokenizer, Masking(0.5, *shares), np.random.default_rng(0))
    chosen = labels != -100
    is_mask = masked[chosen] == tokenizer.special_id("mask_token")
    assert is_mask.all() if shares[0] else not is_mask.any()
    if sum(shares) == 0:
        assert (masked == ids).all()


def test_whole_words_are_hidden_together_with_the_exact_probability(tokenizer):
    random = np.random.default_rng(0)
    ids = make_ids(tokenizer, (200, 500))
    starts = random.random(ids.shape) < 0.4
    _, labels = mask_tokens(ids, tokenizer, Masking(0.3, whole_word=True), random, starts)
    ordinary = ~np.isin(ids, special_ids(tokenizer))
    words = np.cumsum(starts, axis=1)
    for row in range(20):
        for word in np.unique(words[row]):
            of_word = (words[row] == word) & ordinary[row]
            chosen = labels[row][of_word] != -100
            assert chosen.all() or not chosen.any()
    # 40,000 words: a standard deviation of about 0.003
    assert abs((labels != -100).sum() / ordinary.sum() - 0.3) < 0.015


def test_the_words_of_a_text_are_those_of_the_pre_tokenizer(tokenizer):
    ((ids, starts),) = encode_words(tokenizer, ["unbelievable ships, 12"])
    assert starts.shape == ids.shape
    words = [
        tokenizer.decode(piece.tolist()).replace(" ", "")
        for piece in np.split(ids, np.flatnonzero(starts)[1:])
    ]
    # Each digit is a word of its own.
    assert words == ["unbelievable", "ships", ",", "1", "2"]
    assert len(ids) > len(words)  # else the test shows nothing


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BertConfig(), Masking(0.15, 0.8, 0.1)),
        (ModernBertConfig(), Masking(0.30, 0.8, 0.1)),
        (NeoBertConfig(), Masking(0.20, 1.0, 0.0)),
    ],
)
def test_each_architecture_has_the_masking_of_its_paper(config, expected):
    assert masking_of(config) == expected


def test_positions_are_those_of_the_labels_and_rounded_up():
    labels = np.full((2, 5), -100)
    labels[0, 3], labels[1, 1] = 7, 0
    positions, chosen = masked_positions(labels, multiple=4)
    assert positions.tolist() == [3, 6, 0, 0]
    assert chosen.tolist() == [7, 0, -100, -100]
    empty = masked_positions(labels[:0], multiple=4)
    assert [array.tolist() for array in empty] == [[0] * 4, [-100] * 4]


def test_the_loss_and_its_gradient_equal_float64_formulas():
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 4, 6)) * 5
    labels = np.where(random.random((3, 4)) < 0.5, random.integers(0, 6, (3, 4)), -100)
    loss, gradient = mx.value_and_grad(masked_lm_loss)(mx.array(logits, mx.float32), labels)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    rows = np.nonzero(labels != -100)
    chosen = labels[rows]
    expected = -np.log(probabilities[(*rows, chosen)]).mean()
    expected_gradient = np.zeros_like(logits)
    expected_gradient[rows] = (probabilities[rows] - np.eye(6)[chosen]) / len(chosen)
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    assert np.abs(np.array(gradient) - expected_gradient).max() < 1e-6


def test_the_loss_at_positions_equals_the_loss_of_all_logits():
    random = np.random.default_rng(0)
    logits = mx.array(random.normal(size=(3, 8, 6)), mx.float32)
    labels = np.where(random.random((3, 8)) < 0.3, random.integers(0, 6, (3, 8)), -100)
    positions, chosen = masked_positions(labels, multiple=16)
    found = masked_lm_loss(logits.reshape(-1, 6)[mx.array(positions)], chosen)
    assert float(found) == pytest.approx(float(masked_lm_loss(logits, labels)), abs=1e-6)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_and_no_label_at_all_stay_finite(dtype):
    logits = mx.full((2, 3), 6e4, dtype)
    loss, gradient = mx.value_and_grad(masked_lm_loss)(logits, np.array([-100, -100]))
    assert loss.dtype == mx.float32
    assert float(loss) == 0
    assert not gradient.any()
    assert mx.isfinite(masked_lm_loss(logits, np.array([1, -100])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 0.0}, r"probability must be in \(0, 1\], got 0.0"),
        (
            {"mask_share": 0.9, "random_share": 0.2},
            "mask_share and random_share must be at least 0 and add up to at most 1, "
            "got 0.9 and 0.2",
        ),
    ],
)
def test_bad_maskings_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Masking(**options)


def test_whole_words_without_their_starts_are_refused(tokenizer):
    ids = make_ids(tokenizer, (2, 20))
    with pytest.raises(
        ValueError, match=r"^whole words need word_starts of the shape \(2, 20\), got None$"
    ):
        mask_tokens(ids, tokenizer, Masking(whole_word=True), np.random.default_rng(0))


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer):
    settings = {key: value for key, value in tokenizer.settings.items() if key != "mask_token"}
    bare = Tokenizer(tokenizer.backend, settings)
    with pytest.raises(
        ValueError,
        match=r"^the tokenizer has no mask token; name one in tokenizer_config.json \(mask_tok",
    ):
        mask_tokens(make_ids(bare), bare, Masking(), np.random.default_rng(0))
