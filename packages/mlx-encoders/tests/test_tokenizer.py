import json
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlx_encoders import Tokenizer, train_tokenizer

TEXTS = [f"Passenger {i}, aged {i % 70}, paid {i * 7.25:.2f} in Cherbourg." for i in range(60)]


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def tokenizer(request) -> Tokenizer:
    return train_tokenizer(TEXTS, kind=request.param, vocab_size=400)


def test_special_tokens_have_the_first_ids(tokenizer):
    tokens = [tokenizer.backend.id_to_token(i) for i in range(5)]
    assert tokens == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.num_special_tokens == 2
    assert tokenizer.vocab_size == len(tokenizer.backend.get_vocab()) <= 400


def test_encode_adds_special_tokens_and_truncates_but_does_not_pad(tokenizer):
    whole, cut = tokenizer.encode(TEXTS[:1])[0], tokenizer.encode(TEXTS[:1], max_length=6)[0]
    assert whole[0] == 2
    assert whole[-1] == 3
    assert cut == [*whole[:5], 3]
    assert [len(row) for row in tokenizer.encode(["", TEXTS[0]])] == [2, len(whole)]
    assert tokenizer.encode([]) == []


def test_count_is_the_untruncated_length_without_special_tokens(tokenizer):
    tokenizer.encode(TEXTS, max_length=4)
    whole = tokenizer.encode(TEXTS, max_length=None)
    assert tokenizer.count(TEXTS) == [len(row) - 2 for row in whole]


def test_numbers_are_tokenized_by_digits(tokenizer):
    words = [token.lstrip("Ġ#") for token in tokenizer.backend.get_vocab()]
    assert not [word for word in words if len(word) > 1 and any(c.isdigit() for c in word)]
    assert tokenizer.backend.encode("(7.25)", add_special_tokens=False).tokens == [*"(7.25)"]


def test_lowercase_is_an_option():
    for kind in ("wordpiece", "bpe"):
        folded = train_tokenizer(TEXTS, kind=kind, vocab_size=400)
        kept = train_tokenizer(TEXTS, kind=kind, vocab_size=400, lowercase=False)
        assert folded.encode(["Paid"]) == folded.encode(["paid"])
        assert kept.encode(["Paid"]) != kept.encode(["paid"])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text(max_size=40))
def test_cased_bpe_decodes_to_the_text(text):
    assume("[" not in text)  # the name of a special token in a text is that token
    tokenizer = train_tokenizer(TEXTS[:3], kind="bpe", vocab_size=270, lowercase=False)
    ids = tokenizer.encode([text], max_length=None)[0]
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text(alphabet=[chr(i) for i in range(32, 127)], max_size=40))
def test_wordpiece_knows_all_of_ascii(text):
    tokenizer = train_tokenizer(["a"], vocab_size=150)
    assert 1 not in tokenizer.encode([text])[0]


def test_wordpiece_keeps_the_most_frequent_characters_of_a_large_script():
    hanzi = [chr(0x4E00 + i) for i in range(1200)]
    tokenizer = train_tokenizer([" ".join(hanzi[600:])] * 2 + [" ".join(hanzi)], vocab_size=2000)
    assert 1 not in tokenizer.encode([" ".join(hanzi[600:])], max_length=None)[0]
    assert 1 in tokenizer.encode([" ".join(hanzi[:600])], max_length=None)[0]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_training_gives_the_same_vocabulary_in_every_process(kind):
    # Hash seeds differ between processes; short made-up words give many equally frequent merges.
    script = (
        "import random, hashlib\n"
        "from mlx_encoders import train_tokenizer\n"
        "random.seed(0)\n"
        "words = [''.join(random.choices('abcdefgh', k=2 + i % 6)) for i in range(300)]\n"
        "texts = [' '.join(random.choices(words, k=20)) for _ in range(100)]\n"
        f"vocabulary = train_tokenizer(texts, kind={kind!r}, vocab_size=400).backend.get_vocab()\n"
        "print(hashlib.sha256(repr(sorted(vocabulary.items())).encode()).hexdigest())\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert len({run.stdout for run in runs}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_forked_child_encodes_without_warning_or_deadlock(start):
    script = (
        "import os\n"
        "from mlx_encoders import train_tokenizer\n"
        "texts = ['some text'] * 100\n"
        "tokenizer = train_tokenizer(texts, vocab_size=150)\n"
        "expected = tokenizer.encode(texts)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if tokenizer.encode(texts) == expected else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert tokenizer.encode(texts) == expected\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    process = start(command, stderr=subprocess.PIPE, env=environment)
    assert (process.communicate()[1], process.returncode) == ("", 0)


def test_pad_rounds_up_and_masks_the_padding(tokenizer):
    batch = tokenizer.pad([[2, 9, 3], [2, 9, 9, 9, 3]], multiple=4)
    assert batch["input_ids"].dtype == np.int32
    assert batch["attention_mask"].dtype == bool
    assert batch["input_ids"].tolist() == [[2, 9, 3, 0, 0, 0, 0, 0], [2, 9, 9, 9, 3, 0, 0, 0]]
    assert batch["attention_mask"].sum(axis=1).tolist() == [3, 5]
    assert tokenizer.pad([[2, 3]], length=5)["input_ids"].shape == (1, 5)
    assert tokenizer.pad([[2, 3]], multiple=2)["input_ids"].shape == (1, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.encode("one text"), TypeError, r"got one string; use \['one text'\]"),
        (
            lambda t: t.encode(["a"], max_length=2),
            ValueError,
            "must exceed the 2 special tokens, got 2",
        ),
        (lambda t: t.pad([]), ValueError, "at least one sequence"),
        (
            lambda t: t.pad([[1, 2, 3]], length=2),
            ValueError,
            "length 2 is shorter than the longest",
        ),
    ],
)
def test_bad_calls_are_refused(tokenizer, call, error, message):
    with pytest.raises(error, match=message):
        call(tokenizer)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"texts": "abc"}, TypeError, "an iterable of strings, got one string"),
        ({"texts": ["", " "]}, ValueError, "needs some text"),
        ({"texts": ["a"], "kind": "wordpeice"}, ValueError, "did you mean 'wordpiece'"),
        ({"texts": ["a"], "vocab_size": 50}, ValueError, "at least 99 .* got 50"),
        ({"texts": ["a"], "kind": "bpe", "vocab_size": 260}, ValueError, "at least 261 .* got 260"),
    ],
)
def test_bad_training_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        train_tokenizer(**arguments)


def test_save_then_load_restores_the_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path)
    assert loaded.encode(TEXTS) == tokenizer.encode(TEXTS)
    assert loaded.settings == tokenizer.settings
    assert loaded.model_max_length is None


def test_stored_truncation_and_padding_are_disabled(tmp_path):
    tokenizer = train_tokenizer(TEXTS, vocab_size=200)
    expected = tokenizer.encode(TEXTS[:1], max_length=None)
    tokenizer.backend.enable_padding(length=100)
    tokenizer.backend.enable_truncation(3)
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"pad_token": {"content": "[PAD]"}, "model_max_length": 77})
    )
    loaded = Tokenizer.from_folder(tmp_path)
    assert loaded.model_max_length == 77
    assert loaded.encode(TEXTS[:1], max_length=None) == expected
    assert loaded.count(TEXTS[:1])[0] > 3


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocabulary_file_alone_gives_the_word_pieces_of_bert(tmp_path, lowercase):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "age", "Age", "##d", "2", "##2", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    ids = tokenizer.encode(["Aged 22."])[0]
    assert [words[i] for i in ids] == [
        "[CLS]", "age" if lowercase else "Age", "##d", "2", "##2", ".", "[SEP]",
    ]  # fmt: skip
    assert tokenizer.decode(ids) == ("aged 22." if lowercase else "Aged 22.")
    assert tokenizer.encode(["age [MASK]"], max_length=None)[0] == [2, 5, 4, 3]


def test_a_folder_without_tokenizer_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_without_padding_token_is_refused():
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}, unk_token="a"))
    with pytest.raises(ValueError, match="needs a padding token: pad_token is None"):
        Tokenizer(backend, {})
