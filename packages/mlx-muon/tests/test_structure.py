"""Which parameters of common architectures get Muon, and the reasons that `explain` gives."""

import re

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlx_muon import Group, Muon, MuonRule

VOCABULARY, WIDTH = 50, 16


def muon_paths(model, parameters=None):
    """Return the paths that get Muon, from the model or from `parameters` alone."""
    optimizer = Muon()
    optimizer.init(model if parameters is None else parameters)
    arrays = tree_flatten(model.trainable_parameters())
    return {
        path for path, array in arrays
        if isinstance(optimizer.assignment(path, array).rule, MuonRule)
    }  # fmt: skip


def reasons(model, optimizer=None):
    """Return the reasons of `explain` by path."""
    lines = (optimizer or Muon()).explain(model).splitlines()
    found = [re.fullmatch(r" +\d+ x (\S+) [^:]+: (.+)", line) for line in lines]
    return {each[1]: each[2] for each in found if each}


class TransformerLM(nn.Module):
    """As the transformer_lm of mlx-examples; `head` is the name of its output layer."""

    def __init__(self, head="out_proj", layers=2, positions=None, vocabulary=VOCABULARY):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.pe = (
            nn.Embedding(positions, WIDTH) if positions else nn.SinusoidalPositionalEncoding(WIDTH)
        )
        self.transformer = nn.TransformerEncoder(layers, WIDTH, 2, norm_first=True)
        if head:
            self[head] = nn.Linear(WIDTH, vocabulary)


INNER = {
    f"transformer.layers.{layer}.{name}.weight"
    for layer in range(2)
    for name in [
        *(f"attention.{each}_proj" for each in ("query", "key", "value", "out")),
        "linear1",
        "linear2",
    ]
}


@pytest.mark.parametrize("is_tree", [False, True])
@pytest.mark.parametrize(
    "head", ["out_proj", "fc_out", "generator", "logits", "output_layer", "lm_head", "zzz", None]
)
def test_a_language_model_gets_muon_inside_whatever_its_head_is_called(head, is_tree):
    model = TransformerLM(head)
    assert muon_paths(model, model.trainable_parameters() if is_tree else None) == INNER
    if head:
        assert reasons(model)[f"{head}.weight"] == "50 is the vocabulary of embedding"


@pytest.mark.parametrize("layers", [1, 2])
def test_a_table_of_positions_says_nothing_of_layers_of_its_size(layers):
    model = TransformerLM(layers=layers, positions=4 * WIDTH)
    expected = {path for path in INNER if layers == 2 or ".1." not in path}
    assert muon_paths(model) == expected


def test_a_vocabulary_as_large_as_the_model_is_wide_says_nothing():
    model = TransformerLM("zzz", vocabulary=WIDTH)
    model.projection = nn.Linear(WIDTH, WIDTH)
    # The last Linear is square like those in attention, so it is no output.
    assert muon_paths(model) == INNER | {"zzz.weight", "projection.weight"}


@pytest.mark.parametrize("layers", [1, 2])
def test_layers_of_the_vocabularys_size_inside_of_blocks_are_no_heads(layers):
    model = TransformerLM("out_proj", layers, vocabulary=4 * WIDTH)
    found = muon_paths(model)
    assert {path for path in INNER if ".1." not in path} <= found
    assert "out_proj.weight" not in found


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_or_quantized_embedding_has_a_vocabulary_too(frozen):
    model = TransformerLM("zzz")
    model.transformer.extra = nn.Linear(WIDTH, VOCABULARY)
    model.zzz = nn.Linear(WIDTH, 3)
    if frozen:
        model.embedding.freeze()
    else:
        model.embedding = nn.QuantizedEmbedding.from_embedding(nn.Embedding(VOCABULARY, 64))
    assert muon_paths(model) == INNER
    assert reasons(model)["transformer.extra.weight"] == "50 is the vocabulary of embedding"


def test_a_matrix_that_reads_one_hot_words_is_an_embedding():
    model = TransformerLM(None)
    model.words = nn.Linear(VOCABULARY, WIDTH)
    assert Muon().explain(model).count("embedding: AdamW") == 1
    assert muon_paths(model) == INNER


class MixerBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_mixing = nn.Linear(8, 8)
        self.position_wise_ffn = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
        self.positional_gate = nn.Linear(8, 8)


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Linear(12, 8)
        self.cls_token = mx.zeros((1, 8))
        self.pos_enc = mx.zeros((9, 8))
        self.blocks = [MixerBlock(), MixerBlock()]
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 10)


@pytest.mark.parametrize("is_tree", [False, True])
def test_names_that_only_begin_like_tables_are_matrices(is_tree):
    model = Mixer()
    inner = ["token_mixing", "position_wise_ffn.layers.0", "position_wise_ffn.layers.2",
             "positional_gate"]  # fmt: skip
    expected = {f"blocks.{index}.{name}.weight" for index in range(2) for name in inner}
    expected.add("patches.weight")
    if is_tree:  # a tree does not show which layer is the last one
        expected.add("fc.weight")
    assert muon_paths(model, model.trainable_parameters() if is_tree else None) == expected


def test_each_parameter_has_its_reason():
    optimizer = Muon(groups=[Group("*.token_mixing.weight", MuonRule(), "mixing")])
    assert reasons(Mixer(), optimizer) == {
        "patches.weight": "a matrix inside the model",
        "patches.bias": "fewer than two axes",
        "cls_token": "its name",
        "pos_enc": "its name",
        "blocks.*.token_mixing.weight": "matches *.token_mixing.weight",
        "blocks.*.token_mixing.bias": "fewer than two axes",
        "blocks.*.position_wise_ffn.layers.*.weight": "a matrix inside the model",
        "blocks.*.position_wise_ffn.layers.*.bias": "fewer than two axes",
        "blocks.*.positional_gate.weight": "a matrix inside the model",
        "blocks.*.positional_gate.bias": "fewer than two axes",
        "norm.weight": "fewer than two axes",
        "norm.bias": "fewer than two axes",
        "fc.weight": "the last Linear of the model",
        "fc.bias": "fewer than two axes",
    }


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nn.Linear(4, 6), {"weight"}),
        (
            lambda: nn.MultiHeadAttention(16, 2),
            {f"{name}_proj.weight" for name in ("query", "key", "value", "out")},
        ),
        (
            lambda: nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)),
            {"layers.0.weight", "layers.2.weight"},
        ),
        (
            lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)),
            {"layers.0.weight", "layers.2.weight"},
        ),
        (
            lambda: nn.Sequential(
                nn.Embedding(9, 8), nn.TransformerEncoder(1, 8, 2), nn.Sequential(nn.Linear(8, 2))
            ),
            {
                f"layers.1.layers.0.{name}.weight"
                for name in ("attention.query_proj", "attention.key_proj", "attention.value_proj",
                             "attention.out_proj", "linear1", "linear2")
            },
        ),
    ],
)  # fmt: skip
def test_the_last_layer_is_searched_in_sequences_but_not_in_blocks(make, expected):
    assert muon_paths(make()) == expected


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_inside_of_another_is_the_same(tied):
    model = Wrapper(TransformerLM(None if tied else "logits"))
    assert muon_paths(model) == {f"model.{path}" for path in INNER}


class Encoder(nn.Module):
    """BERT's parts and names, with as many positions as inner units."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.embeddings.position_embeddings = nn.Embedding(64, WIDTH)
        self.embeddings.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.encoder = nn.TransformerEncoder(2, WIDTH, 2)
        self.pooler = nn.Linear(WIDTH, WIDTH)


def test_the_inside_of_an_encoder_with_a_task_head_gets_muon():
    model = nn.Module()
    model.encoder = Encoder()
    model.task = nn.Linear(WIDTH, 2)
    inner = {path.replace("transformer.", "encoder.encoder.") for path in INNER}
    assert muon_paths(model) == inner | {"encoder.pooler.weight"}
    assert muon_paths(model.encoder) == {path.removeprefix("encoder.") for path in inner} | {
        "pooler.weight"
    }
