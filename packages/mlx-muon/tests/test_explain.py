import re

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_muon import AdamWRule, Group, Muon, MuonRule, keller, nanochat


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm = nn.RMSNorm(8)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.up = nn.Linear(8, 32)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(50, 8)
        self.patches = nn.Conv2d(3, 8, 2, bias=False)
        self.blocks = [Block(), Block()]
        self.scale = mx.array(1.0)
        self.lm_head = nn.Linear(8, 50, bias=False)


def test_the_table_shows_the_rule_of_each_parameter():
    expected = """\
embedding: AdamW, rate 0.0003, betas 0.9, 0.95, decay 0.1; 400 parameters
     1 x embed_tokens.weight 50x8: an Embedding
matrix: Muon, rate 0.02 x sqrt(max(1, rows / columns)), momentum 0.95 (Nesterov), decay 0.1, \
newton_schulz; 992 parameters
     1 x patches.weight 8x2x2x3 as 1 of 8x12: a matrix inside the model
     2 x blocks.*.qkv.weight 24x8: a matrix inside the model \
(fused? then set split=(8, 8, 8))
     2 x blocks.*.up.weight 32x8: a matrix inside the model
norm or bias: AdamW, rate 0.0003, betas 0.9, 0.95, no decay; 81 parameters
     2 x blocks.*.attn_norm.weight 8: fewer than two axes
     2 x blocks.*.up.bias 32: fewer than two axes
     1 x scale scalar: fewer than two axes
head: AdamW, rate 0.0003, betas 0.9, 0.95, decay 0.1; 400 parameters
     1 x lm_head.weight 50x8: 50 is the vocabulary of embed_tokens"""
    assert keller(weight_decay=0.1).explain(Model()) == expected


def test_the_table_shows_groups_switches_and_schedules():
    optimizer = Muon(
        lambda step: 0.1,
        groups=[
            Group("*.qkv.weight", MuonRule(split=(8, 8, 8), scale="none", nesterov=False), "fused"),
            Group("*.up.weight", MuonRule(0.5, heads=4, method=[(2.0, -1.5, 0.5)], scale="rms")),
            Group(
                "patches.*",
                MuonRule(
                    weight_decay=lambda step: 0.1,
                    momentum=lambda step: 0.9,
                    sign=True,
                    equalize_rows=True,
                    renormalize=True,
                    cautious=True,
                    variance="short",
                    beta2=0.9,
                    scale="mup",
                ),
            ),
            Group("*", AdamWRule(lambda step: 0.2, betas=(lambda step: 0.9, 0.999))),
        ],
    )
    expected = """\
*: AdamW, rate scheduled (now 0.2), betas scheduled, 0.999, decay 0; 881 parameters
     1 x embed_tokens.weight 50x8: matches *
     2 x blocks.*.attn_norm.weight 8: matches *
     2 x blocks.*.up.bias 32: matches *
     1 x scale scalar: matches *
     1 x lm_head.weight 50x8: matches *
patches.*: Muon, rate scheduled (now 0.1) x sqrt(rows / columns), momentum scheduled (Nesterov), \
cautious decay scheduled, polar_express, sign, equalize rows, renormalize, \
variance short, beta2 0.9; 96 parameters
     1 x patches.weight 8x2x2x3 as 1 of 8x12: matches patches.*
fused: Muon, rate scheduled (now 0.1), momentum 0.95, decay 0, polar_express; 384 parameters
     2 x blocks.*.qkv.weight 24x8 as 3 of 8x8: matches *.qkv.weight
*.up.weight: Muon, rate 0.5 x 0.2 / rms, momentum 0.95 (Nesterov), decay 0, \
custom coefficients; 512 parameters
     2 x blocks.*.up.weight 32x8 as 4 of 8x8: matches *.up.weight"""
    assert optimizer.explain(Model()) == expected


def test_unequal_parts_are_listed_and_frozen_parameters_left_out():
    model = Model()
    model.freeze()
    model.blocks[0].qkv.unfreeze()
    optimizer = Muon(groups=[Group("*.qkv.*", MuonRule(split=(16, 4, 4)), "attention")])
    assert optimizer.explain(model) == (
        "attention: Muon, rate 0.001 x 0.2 sqrt(max(rows, columns)), momentum 0.95 (Nesterov), "
        "decay 0, polar_express; 192 parameters\n"
        "     1 x blocks.0.qkv.weight 24x8 as 1 of 16x8 + 1 of 4x8 + 1 of 4x8: matches *.qkv.*"
    )


def test_explaining_makes_no_state():
    optimizer = nanochat(8, 10)
    optimizer.explain(Model())
    assert set(optimizer.state) == {"step", "learning_rate", "rates"}


@pytest.mark.parametrize("parameters", [{"w": mx.zeros(1)}, nn.Linear(1, 1, bias=False)])
def test_one_number_is_singular(parameters):
    assert "; 1 parameter\n" in keller().explain(parameters)


def test_a_group_that_matches_nothing_is_pointed_out():
    lines = Muon(groups=[Group("*.ruoter.weight", AdamWRule())]).explain(Model()).splitlines()
    assert lines[-1] == (
        "*.ruoter.weight: matches no trainable parameter, or only those of earlier groups"
    )


def test_the_rates_shown_are_current():
    groups = [
        Group("*.qkv.*", MuonRule(relative_rate=0.5), "attention"),
        Group(lambda path, array: path == "scale", AdamWRule(0.3), "scale"),
    ]
    optimizer = keller(groups=groups, schedule=lambda step: 1 / (1 + step))
    optimizer.learning_rate = 0.04
    optimizer.state["rates"]["adamw"] = mx.array(1e-3)
    optimizer.state["step"] = mx.array(3, mx.uint64)
    text = optimizer.explain(Model())
    rates = dict(re.findall(r"^(.+): (?:Muon|AdamW), rate (.+?\))", text, re.MULTILINE))
    assert rates == {
        "embedding": "0.001 x schedule (now 0.00025)",
        "matrix": "0.04 x schedule (now 0.01)",
        "norm or bias": "0.001 x schedule (now 0.00025)",
        "attention": "0.02 x schedule (now 0.005)",
        "scale": "0.3 x schedule (now 0.075)",
        "head": "0.001 x schedule (now 0.00025)",
    }
    assert "     1 x scale scalar: matches the group's function" in text
