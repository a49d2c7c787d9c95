"""An evaluation for test_evaluate_ranks.py: each rank does its share.

Usage: evaluate_run.py OUTPUT_FOLDER; exits with 77 where the ring cannot start.
"""

import json
import os
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gpt.engine import Engine
from mlx_gpt.evaluate.choice_tasks import ChoiceTask, evaluate_choice_task, make_choice_question
from mlx_gpt.evaluate.core import evaluate_core_task
from mlx_gpt.evaluate.core_tasks import CoreTask, Example
from mlx_gpt.evaluate.gsm8k import evaluate_gsm8k, make_problem
from mlx_gpt.evaluate.metrics import bits_per_byte, sum_over_ranks
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.tokenizer import Tokenizer
from mlx_trainer import rank, world_size

mx.set_default_device(mx.cpu)
if "MLX_RANK" in os.environ:
    try:
        mx.distributed.init(strict=True, backend="ring")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(77)

tokenizer = Tokenizer.train(["The quick brown fox jumps over the lazy dog."] * 9, 270)
config = NanochatConfig(
    sequence_len=64, vocab_size=270, n_layer=1, n_head=2, n_kv_head=2, n_embd=32
)
model = Nanochat(config).initialize(mx.random.key(0))
model.lm_head.weight = mx.random.normal(model.lm_head.weight.shape, key=mx.random.key(1))

random = np.random.default_rng(0)
ids = random.integers(0, 270, (5, 17))
batches = [(row[None, :-1], row[None, 1:]) for row in ids]

words = ["fox", "dog", "over", "lazy", "quick"]
pairs = [(("The", words[i]), ("The", words[i - 1])) for i in range(5)]
core = CoreTask(
    "core", "multiple_choice", tuple(Example(pairs[i], i % 2) for i in range(5)), 0.5, shots=1
)
choice = ChoiceTask(
    "choice", tuple(make_choice_question(f"{words[i]}?", ["x", "y"], i % 2) for i in range(5)), 0.5
)
problems = [make_problem(f"{i}?", f"#### {i}") for i in range(3)]

found = {
    "sum": sum_over_ranks(np.array([0.1, 2.0**60]) / world_size()).tolist(),
    "bits": bits_per_byte(model, batches[rank() :: world_size()], tokenizer.token_bytes()),
    "core": evaluate_core_task(model, tokenizer, core).as_dict(),
    "choice": evaluate_choice_task(model, tokenizer, choice).as_dict(),
    "gsm8k": evaluate_gsm8k(Engine(model, tokenizer), problems, 2, max_tokens=3).as_dict(),
}
Path(sys.argv[1], f"rank{rank()}.json").write_text(json.dumps(found))
