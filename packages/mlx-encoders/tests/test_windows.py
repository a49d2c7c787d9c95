import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_encoders import Tokenizer, train_tokenizer
from mlx_encoders.windows import cut_windows, encode_documents

TEXTS = ["The whale swam past 12 ships; unbelievable!", "", "Ships and whales.", "  "]
relaxed = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS * 3, vocab_size=110)


@relaxed
@given(
    texts=st.lists(st.sampled_from([*TEXTS, "whales " * 40]), max_size=6),
    length=st.integers(3, 40),
    join=st.booleans(),
)
def test_rows_hold_every_token_of_every_document_in_order(tokenizer, texts, length, join):
    cls, sep = tokenizer.special_id("cls_token"), tokenizer.special_id("sep_token")
    documents, empty = encode_documents(tokenizer, texts)
    windows = cut_windows(documents, tokenizer, length, join)
    assert empty == sum(not text.strip() for text in texts)
    for ids, starts in zip(windows.ids, windows.word_starts, strict=True):
        assert len(ids) == len(starts) <= length
        assert (ids[0], ids[-1]) == (cls, sep)
    found = [token for row in windows.ids for token in row[1:-1]]
    between = [sep] if join else []
    expected = [token for each in documents for token in [*between, *each.ids]][len(between) :]
    assert found == expected
    if join:
        assert all(len(row) == length for row in windows.ids[:-1])


def test_word_starts_follow_their_tokens(tokenizer):
    documents, _ = encode_documents(tokenizer, ["unbelievable whale", "ships"])
    windows = cut_windows(documents, tokenizer, 100)
    expected = [[True], documents[0].word_starts, [True], documents[1].word_starts, [True]]
    assert windows.word_starts[0].tolist() == np.concatenate(expected).tolist()
    assert documents[0].word_starts.sum() == 2


def test_bad_documents_and_lengths_are_refused(tokenizer):
    with pytest.raises(TypeError, match=r"^texts must be an iterable of strings, got one string$"):
        encode_documents(tokenizer, "one")
    with pytest.raises(TypeError, match=r"^documents must be strings; number 1 is int$"):
        encode_documents(tokenizer, ["one", 2])  # type: ignore[list-item]
    with pytest.raises(
        ValueError, match=r"^length must be at least 3: \[CLS\], a token, \[SEP\]; got 2$"
    ):
        cut_windows([], tokenizer, 2)
    settings = {key: value for key, value in tokenizer.settings.items() if key != "sep_token"}
    with pytest.raises(ValueError, match=r"^the tokenizer must have a cls_token and a sep_token$"):
        cut_windows([], Tokenizer(tokenizer.backend, settings), 8)
