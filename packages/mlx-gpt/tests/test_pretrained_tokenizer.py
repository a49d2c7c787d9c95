import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from mlx_gpt.tokenizer import PretrainedTokenizer, Tokenizer, load_tokenizer

TEXT = ["The quick brown fox, 東京 and Köln: it's 84 naïve dogs  over\n\n the lazy dog."] * 3
STYLES = ["byte-level", "byte fallback", "metaspace", "no strip"]


def train(style):
    """Return a small tokenizer of `tokenizers` in the style of GPT-2, Llama 2, T5 or Gemma."""
    if style == "byte-level":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet, first = pre_tokenizers.ByteLevel.alphabet(), []
    else:
        made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        alphabet, first = [], ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        if style == "metaspace":
            made.pre_tokenizer = pre_tokenizers.Metaspace()
            made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        else:
            made.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁")] * (style == "byte fallback")
                + [normalizers.Replace(" ", "▁")]
            )
            made.decoder = decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
                + [decoders.Strip(" ", 1, 0)] * (style == "byte fallback")
            )
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=first, show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    layout = json.loads(made.to_str())
    layout["added_tokens"] = [each for each in layout["added_tokens"] if each["content"] == "<unk>"]
    made = tokenizers.Tokenizer.from_str(json.dumps(layout))
    made.add_special_tokens([AddedToken(each, normalized=False) for each in ("<s>", "</s>")])
    made.add_tokens([AddedToken("<think>", normalized=False)])
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each style."""
    found = {}
    for style in STYLES:
        found[style] = tmp_path_factory.mktemp("tokenizer")
        train(style).save(str(found[style] / "tokenizer.json"))
        config = {"bos_token": {"content": "<s>", "__type": "AddedToken"}, "eos_token": "</s>",
                  "model_max_length": 1e30}  # fmt: skip
        (found[style] / "tokenizer_config.json").write_text(json.dumps(config))
    return found


@pytest.fixture(scope="module")
def pairs(folders):
    """Our tokenizer and theirs for each style."""
    return {
        style: (PretrainedTokenizer(folder),
                tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
        for style, folder in folders.items()
    }  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=40)
@given(
    text=st.text(st.sampled_from("Te quick<s>/▁é東🦊\n") | st.characters(exclude_categories=["Cs"]))
)
def test_pieces_joined_are_the_text_that_tokenizers_decodes(pairs, style, text):
    ours, theirs = pairs[style]
    for allow_special in (False, True):
        ids = ours.encode(text, allow_special)
        theirs.encode_special_tokens = not allow_special
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        expected = theirs.decode(ids, skip_special_tokens=False)
        joined = b"".join(ours.decode_bytes([each]) for each in ids).decode()
        assert ours.decode(ids) == expected
        assert joined in (expected, " " + expected)


@pytest.mark.parametrize("style", STYLES)
def test_text_is_restored_and_special_names_in_it_are_ordinary(pairs, style):
    ours, _ = pairs[style]
    text = "a fox</s> said 🦊 <s>naïve"
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    assert not ours.special_ids.intersection(ids)
    assert ours.special("</s>") in ours.encode(text, allow_special=True)
    assert ours.encode_batch([text, "x"]) == [ids, ours.encode("x")]
    sizes = ours.token_bytes()
    assert sizes[ids].sum() == len(ours.decode_bytes(ids))
    assert sizes[ours.special("<s>")] == 0
    assert sizes.shape == (ours.vocab_size,)
    assert ours.encode("\ud800x") == ours.encode("\ufffdx")


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def test_end_ids_are_those_of_generation_config_and_the_end_token(folders, tmp_path):
    for path in folders["byte-level"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    end = PretrainedTokenizer(tmp_path).special("</s>")
    write(tmp_path, "config.json", {"model_type": "llama", "eos_token_id": 7, "bos_token_id": 5})
    assert PretrainedTokenizer(tmp_path).end_ids == {7, end}
    write(tmp_path, "generation_config.json", {"eos_token_id": [3, 4]})
    assert PretrainedTokenizer(tmp_path).end_ids == {3, 4, end}
    write(tmp_path, "tokenizer_config.json", {})  # as GPT-2's
    write(tmp_path, "generation_config.json", {"eos_token_id": 6})
    bare = PretrainedTokenizer(tmp_path)
    assert (bare.end_ids, bare.eos_id, bare.bos_id) == ({6}, 6, 5)
    bare.save(tmp_path / "saved")
    assert PretrainedTokenizer(tmp_path / "saved").end_ids == {6}
    write(tmp_path, "special_tokens_map.json", {"bos_token": "<s>"})
    assert PretrainedTokenizer(tmp_path).bos_id == bare.special("<s>")


@pytest.mark.parametrize("wanted", [True, False, None])
def test_a_prompt_begins_with_bos_if_the_model_expects_it(folders, tmp_path, wanted):
    for path in folders["byte fallback"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write(tmp_path, "tokenizer_config.json", {"bos_token": "<s>", "add_bos_token": wanted})
    tokenizer = PretrainedTokenizer(tmp_path)
    ids = tokenizer.encode("a fox")
    assert tokenizer.prompt_ids("a fox") == ([tokenizer.bos_id, *ids] if wanted else ids)
    assert tokenizer.prompt_ids("") == [tokenizer.bos_id]


def test_a_folder_is_read_by_the_tokenizer_of_its_family(folders, tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), Tokenizer)
    write(tmp_path, "config.json", {"model_type": "llama"})
    assert isinstance(load_tokenizer(tmp_path), PretrainedTokenizer)
    write(tmp_path, "config.json", {"model_type": "nanochat"})
    found = load_tokenizer(tmp_path)
    assert isinstance(found, Tokenizer)
    assert found.prompt_ids("a") == [found.bos_id, *found.encode("a")]
    assert isinstance(load_tokenizer(folders["metaspace"]), PretrainedTokenizer)


def test_what_is_missing_or_unsupported_is_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json does not exist$"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(
        FileNotFoundError, match=r"does not exist; convert its tokenizer.model once"
    ):
        load_tokenizer(tmp_path)
    layout = json.loads((folders["byte-level"] / "tokenizer.json").read_text())
    write(
        tmp_path,
        "tokenizer.json",
        layout | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
    )
    with pytest.raises(
        ValueError, match=r"tokenizer\.json: the decoder WordPiece is not supported"
    ):
        load_tokenizer(tmp_path)
    write(tmp_path, "tokenizer.json", layout)
    write(tmp_path, "tokenizer_config.json", {"eos_token": "<nope>"})
    with pytest.raises(ValueError, match=r"eos_token '<nope>' is not in tokenizer\.json"):
        _ = load_tokenizer(tmp_path).end_ids
    with pytest.raises(ValueError, match="names no bos_token"):
        _ = load_tokenizer(tmp_path).bos_id
