"""Penalties and biases beside loops in float64; the author's settings; prompts in files."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.engine.continuations import read_prompts
from mlx_gpt.engine.loading import choose_sampling
from mlx_gpt.engine.penalties import Penalties
from mlx_gpt.models.nanochat import Nanochat
from mlx_gpt.tokenizer import Tokenizer

SETTINGS = [
    Sampling(repetition_penalty=1.3),
    Sampling(presence_penalty=0.4, frequency_penalty=-0.2),
    Sampling(),
    Sampling(0, repetition_penalty=0.8, frequency_penalty=0.5, logit_bias={3: -2.0, 7: 5.5}),
]
PROMPTS = [[1, 2, 2], [3], [4, 5], [7, 0]]


def penalized(logits: np.ndarray, each: Sampling, prompt: list[int], answer: list[int]):
    found = logits.astype(np.float64)
    for token in range(len(found)):
        found[token] += each.logit_bias.get(token, 0.0)
        if token in prompt or token in answer:
            factor = each.repetition_penalty
            found[token] = found[token] / factor if found[token] > 0 else found[token] * factor
        found[token] -= each.presence_penalty * (token in answer)
        found[token] -= each.frequency_penalty * answer.count(token)
    return found


def test_penalties_are_those_of_loops_also_after_rows_left():
    random = np.random.default_rng(0)
    penalties = Penalties(SETTINGS, PROMPTS, 10)
    rows, answers = [0, 1, 2, 3], [[], [], [], []]
    for step in range(8):
        logits = random.normal(size=(len(rows), 10)).astype(np.float32)
        found = np.array(penalties.apply(mx.array(logits)))
        for place, row in enumerate(rows):
            expected = penalized(logits[place], SETTINGS[row], PROMPTS[row], answers[row])
            np.testing.assert_allclose(found[place], expected, atol=1e-5)
        tokens = random.integers(0, 10, len(rows))
        penalties.count(mx.array(tokens))
        for row, token in zip(rows, tokens, strict=True):
            answers[row].append(int(token))
        if step == 4:
            penalties.take(mx.array([3, 0]))
            rows = [3, 0]


def test_rows_without_penalties_are_sampled_as_alone(tiny_model: Nanochat, tokenizer: Tokenizer):
    engine = Engine(tiny_model, tokenizer, end_ids=())
    plain = Request([5, 6, 7], 12, Sampling(seed=4))
    others = [Request([5], 12, Sampling(seed=1, repetition_penalty=1.5, logit_bias={9: 3.0}))]
    [alone] = engine.generate([plain])
    assert engine.generate([plain, *others])[0].ids == alone.ids
    assert engine.generate([*others, plain])[0].ids == engine.generate(others)[0].ids


def test_a_bias_forbids_and_forces_tokens(tiny_model: Nanochat, tokenizer: Tokenizer):
    engine = Engine(tiny_model, tokenizer, end_ids=())
    sampling = Sampling(0, logit_bias={9: 100.0, 8: 99.0}, presence_penalty=2.0)
    [found] = engine.generate([Request([5], 4, sampling)])
    assert found.ids == [9, 8, 9, 9]  # both are penalized once, so 9 leads again
    with pytest.raises(
        ValueError, match="the logit_bias has id 384, but the tokenizer has 384 tok"
    ):
        engine.generate([Request([5], 4, Sampling(logit_bias={384: 1.0}))])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
        ({"presence_penalty": float("nan")}, "presence_penalty must be a number, got nan"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias must map ids to numbers, got -1: 1.0"),
    ],
)
def test_wrong_penalties_are_refused(wrong: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Sampling(**wrong)


DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}


def test_what_the_user_gives_wins_then_the_author_then_the_default(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    assert choose_sampling({"top_p": None}, DEFAULTS, tmp_path) == (Sampling(1.0, 50), "")
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 50}))
    found, note = choose_sampling({"top_p": 0.5, "seed": None}, DEFAULTS, tmp_path)
    assert found == Sampling(0.6, 50, 0.5)
    assert note == f"{file}: temperature 0.6"
    file.write_text(json.dumps({"do_sample": False, "top_p": 0.95, "repetition_penalty": 1.1}))
    found, note = choose_sampling({}, DEFAULTS, tmp_path)
    assert found == Sampling(0.0, 50, repetition_penalty=1.1)
    assert note == f"{file}: temperature 0.0, repetition_penalty 1.1"
    file.write_text(json.dumps({"temperature": -1}))
    with pytest.raises(ValueError, match=r"generation_config.json: temperature must be 0 or more"):
        choose_sampling({}, DEFAULTS, tmp_path)


def test_prompts_are_lines_or_rows(tmp_path: Path):
    (tmp_path / "a.txt").write_text('Once\n\n{"prompt": "x"}\n')
    assert read_prompts(tmp_path / "a.txt") == ["Once", '{"prompt": "x"}']
    messages = [{"role": "user", "content": "Hello"}]
    rows = tmp_path / "a.jsonl"
    rows.write_text(f'{{"prompt": "x"}}\n\n{json.dumps({"messages": messages})}\n')
    assert read_prompts(rows) == ["x", messages]
    rows.write_text('{"prompt": "x"}\n{"text": "y"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: expected a text under prompt, or a list"):
        read_prompts(rows)
    rows.write_text('{"prompt": "x"}\n\n{"promp\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:3: not JSON"):
        read_prompts(rows)
