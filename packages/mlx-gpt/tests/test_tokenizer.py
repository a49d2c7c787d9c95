import json
import pickle
import random
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as HuggingFace

from mlx_gpt.models.pickles import read_nanochat_tokenizer
from mlx_gpt.tokenizer import SPECIALS, SPLIT_PATTERN, Tokenizer
from mlx_gpt.tokenizer.files import ALPHABET, to_byte_alphabet

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {bytes([byte]): byte for byte in range(256)}
FRAGMENTS = (
    *SPECIALS, "<|endoftext|>", "<tool>", "The", "the", " quick", "'ll", "'LL", "’s", "12345", "  ",
    "\t", "\n\n", "\r\n", " \n", "\u3000", "ß", "ſ", "東京",
    "é", "e\u0301", "🙂", "👩‍🚀", "\x00", "!!",
)  # fmt: skip
anything = st.text(max_size=60) | st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


def ids_of(other: HuggingFace, text: str) -> list[int]:
    return other.encode(text, add_special_tokens=False).ids


def without_specials(text: str) -> str:
    # tokenizers finds special tokens in any text; ours never does, so that these are left out.
    return re.sub(r"<(\|\w*\||tool)>", "", text)


def split_then_bytes(pattern: str) -> pre_tokenizers.Sequence:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def trained(texts: list[str], pre_tokenizer, specials: list[str], **options) -> HuggingFace:
    made = HuggingFace(models.BPE(**options))
    made.pre_tokenizer = pre_tokenizer
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=380, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return made


@pytest.fixture(scope="session")
def saved(tokenizer: Tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def by_tokenizers(saved: Path) -> HuggingFace:
    return HuggingFace.from_file(str(saved / "tokenizer.json"))


@given(text=anything)
def test_ids_are_those_of_the_tokenizers_library_and_decode_to_the_text(
    tokenizer, by_tokenizers, text
):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert sum(tokenizer.token_bytes()[ids]) == len(text.encode())
    plain = without_specials(text)
    assert tokenizer.encode(plain) == ids_of(by_tokenizers, plain)


@given(text=anything)
def test_text_never_becomes_a_special_token(tokenizer, text):
    assert not tokenizer.special_ids & set(tokenizer.encode(text))
    assert not tokenizer.special_ids & set(tokenizer.encode_batch([text, "".join(SPECIALS)])[1])


def test_saving_and_loading_changes_nothing(tokenizer, saved, texts, tmp_path):
    loaded = Tokenizer.load(saved)
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts, threads=1)
    assert loaded.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    loaded.save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_specials_have_the_last_ids_in_nanochats_order(tokenizer, by_tokenizers):
    assert [tokenizer.special(name) for name in SPECIALS] == list(range(375, 384))
    assert [by_tokenizers.token_to_id(name) for name in SPECIALS] == list(range(375, 384))
    assert tokenizer.vocab_size == by_tokenizers.get_vocab_size() == 384
    assert tokenizer.bos_id == 375
    assert tokenizer.end_ids == {375, 379}
    assert tokenizer.decode([375, 72, 105]) == "<|bos|>Hi"
    assert ids_of(by_tokenizers, "<|bos|>Hi") == [375, 72, 105]


def test_every_merge_joins_a_most_frequent_pair(texts):
    made = Tokenizer.train(texts, 300, pattern=r"[^ ]+| +")
    pieces = [
        [BYTES[bytes([byte])] for byte in piece.encode()]
        for text in texts
        for piece in re.findall(r"[^ ]+| +", text)
    ]
    for number in range(256, 300 - len(SPECIALS)):
        counts: dict[tuple[int, int], int] = {}
        for piece in pieces:
            for pair in pairwise(piece):
                counts[pair] = counts.get(pair, 0) + 1
        token = made.decode_bytes([number])
        chosen = {pair for pair in counts if made.decode_bytes(pair) == token}
        assert max(counts[pair] for pair in chosen) == max(counts.values())
        for piece in pieces:
            place = 0
            while place < len(piece) - 1:
                if (piece[place], piece[place + 1]) in chosen:
                    piece[place : place + 2] = [number]
                place += 1


def test_training_gives_the_same_tokenizer_from_the_same_texts(texts, tokenizer, tmp_path, saved):
    Tokenizer.train(iter(texts), 384).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (saved / "tokenizer.json").read_bytes()


def test_caps_cut_documents_and_the_whole():
    counts: list[int] = []
    with pytest.raises(ValueError, match="pairs for only"):
        Tokenizer.train(
            ["abcdef", "gh", "ijkl", "mnop"], 900, max_chars=9, max_document_chars=4,
            progress=counts.append,
        )  # fmt: skip
    assert counts == [4, 2, 3]
    one = Tokenizer.train(["ab" * 50, "xy" * 90], 266, max_document_chars=60, max_chars=100)
    assert one.decode_bytes([256]) == b"ab"


def test_a_long_text_is_read_to_its_end():
    counts: list[int] = []
    tokenizer = Tokenizer.train(["ab " * 5000 + "xyz " * 9000], 270, progress=counts.append)
    assert sum(counts) == 51_000
    assert max(counts) <= 8000
    assert len(tokenizer.encode("xyz")) == 1


def test_token_bytes_count_raw_bytes_of_parts_of_characters(tokenizer):
    lengths = tokenizer.token_bytes()
    assert lengths.dtype == np.int32
    assert lengths.shape == (384,)
    assert (lengths[:256] == 1).all()
    assert (lengths[375:] == 0).all()
    assert (lengths[256:375] >= 2).all()
    assert tokenizer.decode([0xE6]) == "\ufffd"


def test_display_of_pieces_shows_what_does_not_print(tokenizer):
    assert tokenizer.piece(10) == r"\n"
    assert tokenizer.piece(0xE6) == r"\xe6"
    assert tokenizer.piece(375) == "<|bos|>"


def test_half_a_surrogate_pair_counts_as_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    halves = Tokenizer.train(["a\ud800b a\ud800b"] * 3, 266)
    whole = Tokenizer.train(["a\ufffdb a\ufffdb"] * 3, 266)
    assert halves._text == whole._text


def test_long_runs_are_encoded_too(tokenizer):
    for text in (" " * 100_000 + "a", "a" * 100_000, "\n" * 50_000, "?" * 100_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_runs_that_are_too_long_for_tiktoken_are_encoded_too(tokenizer, capfd):
    text = " " * 1_200_000 + "a"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, "b"], threads=2) == [ids, tokenizer.encode("b")]
    assert "panicked" in capfd.readouterr().err  # or this tests nothing


def test_text_that_the_pattern_does_not_cover_is_kept_as_tokenizers_keeps_it():
    made = Tokenizer.from_ranks(BYTES | {b"xy": 256, b"ab": 257}, r"[a-c]+", ["<|bos|>"])
    other = HuggingFace.from_str(made._text)
    for text in ("xyab!", "abxyxy", "?", "xy ab xy"):
        assert made.decode(made.encode(text)) == text
        assert made.encode(text) == ids_of(other, text)
    assert made.encode("xyab") == [256, 257]


# Files of others


@given(text=anything)
@settings(max_examples=40)
@pytest.mark.parametrize("layout", ["gpt2", "llama3", "nfc", "digits", "added"])
def test_files_of_other_layouts_give_the_ids_of_tokenizers(others, layout, text):
    ours, theirs = others[layout]
    plain = without_specials(text)
    assert ours.encode(plain) == ids_of(theirs, plain)
    assert not ours.special_ids & set(ours.encode(text))
    assert ours.encode_batch([text, plain]) == [ours.encode(text), ours.encode(plain)]


@pytest.fixture(scope="session")
def others(texts) -> dict[str, tuple[Tokenizer, HuggingFace]]:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    made = {
        "gpt2": trained(texts, byte_level, ["<|endoftext|>"]),
        "llama3": trained(texts, split_then_bytes(LLAMA3_PATTERN), [], ignore_merges=True),
        "nfc": trained(texts, byte_level, ["<|endoftext|>"]),
        "digits": trained(texts, pre_tokenizers.Sequence([digits, byte_level]), ["<|endoftext|>"]),
        "added": trained(texts, split_then_bytes(LLAMA3_PATTERN), []),
    }
    made["nfc"].normalizer = normalizers.NFC()
    made["added"].add_tokens([AddedToken("<tool>", special=False)])
    for name, number in (("llama3", 380), ("added", 381)):
        made[name].add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
        made[name].post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", number)]
        )
    return {name: (Tokenizer(each.to_str()), each) for name, each in made.items()}


def test_only_files_that_tiktoken_cannot_follow_run_without_it(others):
    runs = {
        name: ours._encode_batch.__qualname__.split(".")[0] for name, (ours, _) in others.items()
    }
    assert runs == {
        "gpt2": "_tiktoken_encoder", "llama3": "_tiktoken_encoder",
        "nfc": "_tokenizers_encoder", "digits": "_tokenizers_encoder",
        "added": "_tokenizers_encoder",
    }  # fmt: skip


def test_added_tokens_that_are_not_special_are_found_in_text(others):
    ours, theirs = others["added"]
    ids = ours.encode("a<tool>b")
    assert ids == ids_of(theirs, "a<tool>b") == [97 - 33, 380, 98 - 33]
    assert ours.special_ids == {381, 382}
    assert ours.token_bytes()[380] == 6


def test_what_begins_and_ends_a_text_comes_from_the_files(others, tmp_path):
    ours, theirs = others["llama3"]
    assert (ours.bos_id, ours.end_ids, ours.vocab_size) == (380, {380}, 382)
    theirs.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": {"content": "<|end_of_text|>"}, "eos_token": "<|end_of_text|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.bos_id, loaded.end_ids) == (381, {380, 381})
    loaded.save(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").bos_id == 381


def test_ids_in_another_order_than_the_merges_are_followed(others, texts):
    layout = json.loads(others["gpt2"][1].to_str())
    vocab = layout["model"]["vocab"]
    numbers = list(vocab.values())
    random.Random(0).shuffle(numbers)
    layout["model"]["vocab"] = dict(zip(vocab, numbers, strict=True))
    layout["added_tokens"][0]["id"] = layout["model"]["vocab"]["<|endoftext|>"]
    text = json.dumps(layout)
    theirs = HuggingFace.from_str(text)
    ours = Tokenizer(text)
    assert [ours.encode(each) for each in texts[:50]] == [ids_of(theirs, e) for e in texts[:50]]
    assert ours.decode(ours.encode(texts[0])) == texts[0]


def test_a_token_without_a_merge_is_not_found_unless_the_file_says_so(others):
    layout = json.loads(others["gpt2"][1].to_str())
    layout["model"]["vocab"]["zebra"] = 380
    for whole in (False, True):
        layout["model"]["ignore_merges"] = whole
        text = json.dumps(layout)
        ids = Tokenizer(text).encode("zebra zebras")
        assert ids == ids_of(HuggingFace.from_str(text), "zebra zebras")
        assert (380 in ids) == whole


@given(tokens=st.lists(st.text("ab", min_size=2, max_size=6), unique=True, max_size=12),
       text=st.text("abab ", max_size=14))  # fmt: skip
def test_any_ranks_give_the_same_ids_in_both_libraries(tokens, text):
    # Also ranks that no training would give: tokens longer than two known parts, late parts.
    ranks = BYTES | {token.encode(): 256 + place for place, token in enumerate(tokens)}
    made = Tokenizer.from_ranks(ranks, r"\S+|\s+", ["<|bos|>"])
    assert made.encode(text) == ids_of(HuggingFace.from_str(made._text), text)
    reference = tiktoken.Encoding(
        "reference", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={}
    )
    assert made.encode(text) == reference.encode_ordinary(text)


def test_the_byte_alphabet_is_that_of_tokenizers():
    assert sorted(ALPHABET.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    # The characters U+0000 to U+07FF and one of each longer length have nearly all bytes in UTF-8.
    for character in [*map(chr, range(0x800)), "東", "\ud7ff", "🙂", "\U0010ffff"]:
        (piece, _), *rest = pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(
            character
        )
        assert (piece, rest) == (to_byte_alphabet(character.encode()), [])


# nanochat's pickle


class Malicious:
    def __reduce__(self):
        return print, ("this must not run",)


def write_pickle(path: Path, **changes) -> dict:
    ranks = BYTES | {b"ab": 256, b"abc": 257}
    state = {
        "name": "rustbpe",
        "pat_str": SPLIT_PATTERN,
        "mergeable_ranks": ranks,
        "special_tokens": {name: 258 + place for place, name in enumerate(SPECIALS)},
    } | changes
    path.write_bytes(pickle.dumps(tiktoken.Encoding(**state)))
    return state


def test_nanochats_pickle_converts_only_when_asked_to(tmp_path):
    write_pickle(tmp_path / "tokenizer.pkl")
    path = tmp_path / "tokenizer.pkl"
    message = (
        f"{path} is a pickle, which can run programs; use unsafe=True (--unsafe) if you trust "
        "its source"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_nanochat_tokenizer(tmp_path)
    converted = read_nanochat_tokenizer(tmp_path, unsafe=True)
    encoding = pickle.loads(path.read_bytes())
    text = "abc abab, it's 12345\n\n <|bos|>"
    assert converted.encode(text) == encoding.encode_ordinary(text)
    assert converted.special("<|output_end|>") == encoding.encode_single_token("<|output_end|>")
    assert converted.vocab_size == encoding.n_vocab


@pytest.mark.parametrize("content", [Malicious(), {"mergeable_ranks": {}}, print])
def test_a_pickle_of_anything_else_is_refused_and_runs_nothing(tmp_path, capsys, content):
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a tokenizer of nanochat")):
        read_nanochat_tokenizer(path, unsafe=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x8c\x04ab\x94\xff.", "not a tokenizer of nanochat: UnicodeDecodeError("),
        (b"\x80\x04\x95", "not a tokenizer of nanochat: UnpicklingError("),
        (b"\x80\x04]R.", "not a tokenizer of nanochat: "),
    ],
)
def test_a_damaged_pickle_is_one_error_with_its_name(tmp_path, content, message):
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_nanochat_tokenizer(path, unsafe=True)


def test_a_pickle_with_a_gap_in_its_ranks_is_refused_by_its_name(tmp_path):
    path = tmp_path / "tokenizer.pkl"
    ranks = BYTES | {b"ab": 257}
    write_pickle(path, mergeable_ranks=ranks, special_tokens={"<|bos|>": 257})
    with pytest.raises(ValueError, match=re.escape(f"{path}: ranks must be 0 to 256, each once")):
        read_nanochat_tokenizer(path, unsafe=True)


def test_a_pickle_with_specials_elsewhere_is_refused(tmp_path):
    write_pickle(tmp_path / "tokenizer.pkl", special_tokens={"<|bos|>": 999})
    with pytest.raises(ValueError, match="the ids of special tokens must follow all others"):
        read_nanochat_tokenizer(tmp_path, unsafe=True)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"vocab_size": 264},
            "vocab_size must be at least 265, 256 bytes and 9 special tokens, got 264",
        ),
        (
            {"vocab_size": 9000},
            "the text has enough pairs for only 258 tokens, not 8,991 (special tokens not "
            "counted); give more text or a smaller vocab_size",
        ),
        ({"max_chars": 0}, "max_chars must be at least 1, got 0"),
        ({"max_document_chars": 0}, "max_document_chars must be at least 1, got 0"),
        ({"pattern": "("}, "split pattern '(': "),
        ({"pattern": "a*"}, "split pattern 'a*': it must not match the empty text"),
        ({"pattern": ""}, "split pattern '': it must not match the empty text"),
        (
            {"specials": ["<|bos|>", "<|bos|>"]},
            "special tokens must differ from each other and from all tokens, got ['<|bos|>', ",
        ),
    ],
)
def test_training_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Tokenizer.train(["abc"], **({"vocab_size": 266} | options))


def test_ranks_must_be_complete():
    with pytest.raises(ValueError, match="ranks must be 0 to 256, each once"):
        Tokenizer.from_ranks(BYTES | {b"ab": 300}, SPLIT_PATTERN)
    with pytest.raises(ValueError, match="1 of the 256 bytes have no token; the first is b'a'"):
        Tokenizer.from_ranks(
            {bytes([byte]): byte - (byte > 97) for byte in range(256) if byte != 97}, SPLIT_PATTERN
        )
    with pytest.raises(ValueError, match="special tokens must differ"):
        Tokenizer.from_ranks(BYTES | {b"<s>": 256}, SPLIT_PATTERN, ["<s>"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "x.json: not a tokenizer.json of Hugging Face's tokenizers (JSONDecodeError"),
        ("{}", "x.json: not a tokenizer.json of Hugging Face's tokenizers (KeyError('model'))"),
        ("[]", "x.json: not a tokenizer.json of Hugging Face's tokenizers (TypeError"),
        (
            HuggingFace(models.WordPiece({"a": 0})).to_str(),
            "x.json: expected byte-level BPE, found a model of type WordPiece",
        ),
        (
            trained(["abc"], pre_tokenizers.Metaspace(), []).to_str(),
            "x.json: expected byte-level BPE, found the pre-tokenizers ['Metaspace'] without "
            "ByteLevel",
        ),
        (
            trained(["a"], pre_tokenizers.ByteLevel(), [])
            .to_str()
            .replace('"end_of_word_suffix":null', '"end_of_word_suffix":"</w>"'),
            "x.json: expected byte-level BPE, found end_of_word_suffix '</w>'",
        ),
        (
            trained(["a"], pre_tokenizers.ByteLevel(), [])
            .to_str()
            .replace('"Ā"', '"東"'),
            "x.json: expected byte-level BPE, but token '東' has the character '東', which is "
            "not a byte",
        ),
    ],
)  # fmt: skip
def test_what_is_no_byte_level_bpe_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        Tokenizer.load(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["model"]["vocab"].update(a=None), "token 'a' has the id None"),
        (lambda file: file["model"]["vocab"].update(a=2**70), f"token 'a' has the id {2**70}"),
        (lambda file: file["added_tokens"][0].update(id=-1), "token '<|bos|>' has the id -1"),
        (lambda file: file["added_tokens"][0].update(content=3), "token 3 has the id 375"),
        (lambda file: file["model"]["merges"].insert(0, []), "merge [] does not have two tokens"),
        (lambda file: file.update(normalizer=3), "Hugging Face's tokenizers cannot read it: data "),
    ],
)
def test_a_damaged_file_is_refused_with_its_path(tmp_path, tokenizer, change, message):
    tokenizer.save(tmp_path)
    file = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    change(file)
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    expected = f"^{re.escape(str(tmp_path / 'tokenizer.json'))}: .*{re.escape(message)}"
    with pytest.raises(ValueError, match=expected):
        Tokenizer.load(tmp_path)


def test_a_folder_without_tokenizer_says_so(tmp_path):
    message = f"no tokenizer: {tmp_path / 'tokenizer.json'} does not exist"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        Tokenizer.load(tmp_path)


def test_unknown_ids_and_names_are_errors(tokenizer):
    for number in (-1, 384):
        with pytest.raises(ValueError, match=f"token id {number} is not in this vocabulary of 384"):
            tokenizer.decode([65, number])
    with pytest.raises(KeyError, match=r"no special token '<\|boss\|>'.*did you mean '<\|bos\|>'"):
        tokenizer.special("<|boss|>")


def test_a_tokenizer_without_a_beginning_says_so(texts):
    made = Tokenizer.train(texts, 300, specials=[])
    with pytest.raises(ValueError, match="has no token that begins a document"):
        _ = made.bos_id
    with pytest.raises(KeyError, match="it has none"):
        made.special("<|bos|>")
