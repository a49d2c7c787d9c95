import json

import mlx.core as mx
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_encoders import (
    BertConfig,
    Tokenizer,
    build_model,
    compare_tokens,
    save,
    train_tokenizer,
    trim_vocabulary,
)

TEXTS = ["forest fire near La Ronge", "residents asked to shelter in place", "fire sank, 7.25 $"]
WORDS = ["forest", "fire", "near", "residents", "shelter", "rest", "in", "sank", "7.25", "$"]


def bert(vocab_size, **changes):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    return build_model(
        BertConfig(vocab_size=vocab_size, num_hidden_layers=1, **sizes, **changes), seed=3
    )


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def tokenizer(request):
    return train_tokenizer([*TEXTS, "many other words " * 3, "unheard"], request.param, 400)


@settings(deadline=None, max_examples=25)
@given(texts=st.lists(st.lists(st.sampled_from(WORDS), min_size=1).map(" ".join), min_size=1))
def test_the_texts_keep_their_tokens_and_hidden_states(tokenizer, texts):
    model = bert(tokenizer.vocab_size + 24)  # rows that no token has
    smaller, trimmed, report = trim_vocabulary(model, tokenizer, texts)
    assert report.tokens_after == trimmed.vocab_size == smaller.config.vocab_size
    found = compare_tokens(tokenizer, trimmed, texts)
    assert found.changed == 0
    assert found.length_before == found.length_after
    before = model(**tokenizer.pad(tokenizer.encode(texts)))
    assert mx.array_equal(before, smaller(**trimmed.pad(trimmed.encode(texts))))


def test_the_comparison_counts_other_unknown_and_more_tokens():
    full = train_tokenizer(["fire fire forest forest"], "wordpiece", 300)
    _, trimmed, _ = trim_vocabulary(bert(full.vocab_size), full, ["forest"])
    found = compare_tokens(full, trimmed, ["fire", "forest", "forest €"])
    assert (found.texts, found.changed) == (3, 1)
    assert found.unknown_before == 1 / 4  # fire, forest, forest, [UNK]
    assert found.length_before == 4 / 3
    assert found.length_after == 7 / 3  # f, ##i, ##r, ##e
    assert found.unknown_after == 1 / 7


def test_the_trimmed_model_shares_no_array_with_the_full_one(tokenizer):
    model = bert(tokenizer.vocab_size)
    smaller, *_ = trim_vocabulary(model, tokenizer, TEXTS)
    arrays = {id(array) for _, array in tree_flatten(model.parameters())}
    assert not any(id(array) in arrays for _, array in tree_flatten(smaller.parameters()))


def test_rare_tokens_are_spelled_with_min_count(tokenizer):
    model = bert(tokenizer.vocab_size)
    sizes = [
        trim_vocabulary(model, tokenizer, [*TEXTS, TEXTS[0]], min_count=count)[2].tokens_after
        for count in (1, 2, 3)
    ]
    assert sizes[0] > sizes[1] >= sizes[2]


def test_a_token_that_two_merges_make_keeps_the_parts_of_both():
    vocabulary = {token: i for i, token in enumerate(["[PAD]", *"abcd", "bc", "ab", "abc", "abcd"])}
    # "abc" is a + bc or, later in the list than its use in abcd, ab + c.
    merges = [("b", "c"), ("a", "bc"), ("abc", "d"), ("a", "b"), ("ab", "c")]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    full = Tokenizer(backend, {"pad_token": "[PAD]"})
    _, trimmed, report = trim_vocabulary(bert(full.vocab_size), full, ["abcd"])
    assert trimmed.encode(["abcd"]) == full.encode(["abcd"]) == [[8]]
    assert report.tokens_after == 9


def test_an_added_token_before_others_of_the_vocabulary_moves_behind_them():
    vocabulary = {"[PAD]": 0, "a": 1, "b": 2, "ab": 9}  # with a gap, where an added token goes
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b")]))
    backend.add_tokens(["<name>"])
    full = Tokenizer(backend, {"pad_token": "[PAD]"})
    assert full.encode(["ab<name>"]) == [[9, 4]]
    model = bert(10)
    smaller, trimmed, _ = trim_vocabulary(model, full, ["ab"])
    assert trimmed.encode(["ab<name>"]) == [[3, 4]]
    old, new = (each.get_input_embeddings().weight for each in (model, smaller))
    assert mx.array_equal(old[mx.array([0, 1, 2, 9, 4])], new)


def test_added_tokens_keep_their_ids_in_all_files(tokenizer, tmp_path):
    full = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer.backend.to_str()), tokenizer.settings)
    full.backend.add_tokens(["<name>"])  # beside the vocabulary
    decoder = {
        str(full.backend.token_to_id(token)): {"content": token, "special": True}
        for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<name>")
    }
    full.settings = {**full.settings, "added_tokens_decoder": decoder}
    model = bert(full.vocab_size)
    smaller, trimmed, _ = trim_vocabulary(model, full, TEXTS[:1])
    save(tmp_path, smaller, trimmed)
    again = Tokenizer.from_folder(tmp_path)
    text = ["fire near <name>"]
    [row], [ids] = full.encode(text), again.encode(text)
    assert full.decode(row, False) == again.decode(ids, False)
    assert ids[-2] == again.vocab_size - 1  # <name> follows the vocabulary
    weights = (each.get_input_embeddings().weight for each in (model, smaller))
    old, new = weights
    assert mx.array_equal(old[row[-2]], new[ids[-2]])
    stored = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {entry["content"]: int(index) for index, entry in stored.items()} == {
        entry["content"]: again.backend.token_to_id(entry["content"]) for entry in decoder.values()
    }


@pytest.mark.parametrize("kind", ["BertProcessing", "RobertaProcessing"])
def test_every_form_of_special_ids_is_renumbered(kind):
    vocabulary = {"unused": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "[UNK]": 4, "a": 5}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.post_processor = getattr(tokenizers.processors, kind)(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    full = Tokenizer(backend, {"pad_token": "[PAD]"})
    smaller, trimmed, _ = trim_vocabulary(bert(6, pad_token_id=1), full, ["a"])
    assert full.encode(["a"]) == [[2, 5, 3]]
    assert trimmed.encode(["a"]) == [[1, 4, 2]]
    assert (smaller.config.pad_token_id, trimmed.pad_token_id) == (0, 0)


def test_other_kinds_of_vocabulary_are_refused():
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram([("[PAD]", 0.0), ("a", -1.0)], 0))
    with pytest.raises(ValueError, match="only WordPiece and BPE vocabularies can be trimmed, got"):
        trim_vocabulary(bert(2), Tokenizer(backend, {"pad_token": "[PAD]"}), ["a"])
