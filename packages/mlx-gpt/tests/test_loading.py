"""A model and a tokenizer that do not belong together are not used."""

import pytest

from mlx_gpt.finetuning import load_base
from mlx_gpt.loading import load
from mlx_gpt.models.files import save_model
from mlx_gpt.tokenizer import Tokenizer


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
