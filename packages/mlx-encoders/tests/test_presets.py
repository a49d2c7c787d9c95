import json

import mlx.core as mx
import pytest
from click.testing import CliRunner

from mlx_encoders import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    ModernBertForMaskedLM,
    NeoBertForMaskedLM,
    build_model,
)
from mlx_encoders.cli import cli
from mlx_encoders.presets import PRESETS, count_parameters, get_preset


# Counted by transformers on its meta device; NeoBERT from the tensors of its checkpoint.
@pytest.mark.parametrize(
    ("name", "model_class", "expected"),
    [
        ("bert-tiny", None, 4_385_920),
        ("bert-mini", None, 11_170_560),
        ("bert-small", None, 28_763_648),
        ("bert-medium", None, 41_373_184),
        ("bert-base", None, 109_482_240),
        ("bert-base", BertForMaskedLM, 109_514_298),
        ("bert-base", BertForSequenceClassification, 109_483_778),
        ("bert-large", None, 335_141_888),
        ("minilm-l6", None, 22_713_216),
        ("minilm-l12", None, 33_360_000),
        ("modernbert-base", None, 149_014_272),
        ("modernbert-base", ModernBertForMaskedLM, 149_655_232),
        ("modernbert-large", None, 394_781_696),
        ("modernbert-large", ModernBertForMaskedLM, 395_881_664),
        ("neobert", None, 221_665_536),
        ("neobert", NeoBertForMaskedLM, 245_136_954),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, model_class, expected):
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    assert count_parameters(get_preset(name), model_class) == expected
    assert mx.get_peak_memory() - before < 1e6


def test_a_model_counts_as_its_config():
    config = BertConfig(vocab_size=30, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    model = build_model(config)
    mx.eval(model.parameters())
    assert count_parameters(model) == count_parameters(config)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="unknown preset 'modernbert-bse'; did you mean 'modernb"):
        get_preset("modernbert-bse")


def test_info_describes_a_preset_as_json_and_as_text():
    result = CliRunner().invoke(cli, ["info", "--model", "neobert", "--json"])
    facts = json.loads(result.stdout)
    assert facts["class"] == "NeoBertModel"
    assert facts["parameters"] == 221_665_536
    assert facts["maximum_length"] == 4096
    result = CliRunner().invoke(cli, ["info", "--model", "bert-base"])
    assert "parameters         109,482,240\n" in result.stdout
    assert "quantization       none\n" in result.stdout
    assert set(PRESETS) >= {"minilm-l6", "minilm-l12"}


def test_info_of_nothing_is_one_line():
    result = CliRunner().invoke(cli, ["info", "--model", "./absent"])
    assert result.exit_code == 1
    assert result.stderr == "Error: no folder './absent'\n"
