"""A model and a tokenizer that do not belong together are not used."""

import json

import pytest

from mlx_gpt.models.files import load, save_model
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.base_model import load_base


@pytest.mark.parametrize("how", [load, load_base])
def test_ids_that_the_model_does_not_know_are_refused(how, tiny_model, tokenizer, texts, tmp_path):
    """Ids beyond the embedding would read and write memory that is not the model's."""
    save_model(tiny_model, tmp_path)
    tokenizer.save(tmp_path)
    model, found = how(str(tmp_path))
    assert found.vocab_size == model.config.vocab_size
    Tokenizer.train(texts, vocab_size=390).save(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer has 390 tokens and the model 384"):
        how(str(tmp_path))


@pytest.mark.parametrize("how", [load, load_base])
def test_another_tokenizer_of_the_same_size_is_refused(how, tiny_model, tokenizer, texts, tmp_path):
    other = Tokenizer.train([text.upper() for text in texts], vocab_size=384)
    save_model(tiny_model, tmp_path, tokenizer.sha256)
    other.save(tmp_path)
    with pytest.raises(ValueError, match="sha256") as error:
        how(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: the tokenizer (sha256 {other.sha256[:12]}) is not the one that the model was "
        f"trained with (sha256 {tokenizer.sha256[:12]}), though both have 384 tokens; restore the "
        "model's tokenizer.json"
    )
    tokenizer.save(tmp_path)
    assert how(str(tmp_path))[1].sha256 == tokenizer.sha256


def test_a_smaller_tokenizer_is_refused_and_a_model_without_a_hash_loads(
    tiny_model, tokenizer, texts, tmp_path
):
    save_model(tiny_model, tmp_path)
    tokenizer.save(tmp_path)
    assert load(tmp_path)
    Tokenizer.train(texts, vocab_size=370).save(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer has 370 tokens and the model 384"):
        load(tmp_path)


def test_the_hash_is_of_the_content_and_not_of_its_spacing(tokenizer, tmp_path):
    layout = json.loads(tokenizer._text)
    text = json.dumps(dict(reversed(layout.items())))
    assert text != tokenizer._text
    assert Tokenizer(text).sha256 == tokenizer.sha256


def test_weights_that_are_not_finite_are_not_loaded(tiny_model, tokenizer, tmp_path):
    tiny_model.lm_head.weight = tiny_model.lm_head.weight * float("nan")
    save_model(tiny_model, tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(ValueError, match=r"weights are not finite, .*: lm_head.weight$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "must contain a JSON object, got a list"),
        ('{"bos_token": 7}', "bos_token must be text"),
    ],
)
def test_a_damaged_tokenizer_config_is_named(tokenizer, tmp_path, content, problem):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=f"tokenizer_config.json:? {problem}"):
        Tokenizer.load(tmp_path)
