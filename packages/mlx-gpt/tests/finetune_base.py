"""A tiny Llama with a tokenizer and a chat template, and helpers of the tests of `finetune`."""

import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mlx_gpt.models.files import save_model
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.training.finetune import build, finetune
from mlx_gpt.training.finetune_settings import (
    FinetuneConfig,
    FinetuneData,
    FinetuneMethod,
    FinetuneReport,
    FinetuneTraining,
)

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COLOURS = ["red", "green", "blue", "brown", "black"]


def write_base(folder: Path, texts: list[str]) -> str:
    """Write a model folder of two layers of 32 dimensions; return its path."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, show_progress=False, initial_alphabet=alphabet,
    ))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    model = Llama(LlamaConfig(320, 64, 96, 2, 4, 2, 16, 128))
    save_model(model, folder)
    return str(folder)


def write_rows(path: Path, rows) -> str:
    """Write JSON lines; return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def chat(*texts: str) -> dict:
    """Return a conversation that begins with the user."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


def easy_config(base: str, folder: Path) -> FinetuneConfig:
    """Return ten updates on easy questions, of two micro-batches each."""
    rows = [chat(f"The {each} dog?", f"{each} {each}") for each in COLOURS] * 4
    return FinetuneConfig(
        base,
        FinetuneData([write_rows(folder / "train.jsonl", rows)],
                     [write_rows(folder / "valid.jsonl", rows[:5])]),
        FinetuneMethod(rank=4, alpha=8),
        training=FinetuneTraining(2, batch_size=4, micro_batch_tokens=96, learning_rate=1e-2),
        report=FinetuneReport(4, checkpoint_every=5),
    )  # fmt: skip


def run(config, folder, resume=False, stop_after=None):
    """Train; return the job and the events. Killed right after `stop_after` updates."""
    job, events = build(config), []

    def report(event):
        events.append(event)
        if event["event"] == "update" and event["updates"] == stop_after:
            raise SystemExit  # nothing is saved any more, as after a kill

    try:
        finetune(job, folder, report, resume)
    except SystemExit:
        assert stop_after
    return job, events


def of(kind: str, events: list[dict], name: str) -> list:
    """Return a value of each event of a kind."""
    return [event[name] for event in events if event["event"] == kind]


def arrays(tree) -> dict[str, mx.array]:
    """Return the arrays of a tree by dotted name."""
    return dict(tree_flatten(tree))


def equal(ours, theirs) -> bool:
    """Return whether two trees have the same arrays, bit for bit."""
    ours, theirs = arrays(ours), arrays(theirs)
    return ours.keys() == theirs.keys() and all(
        mx.array_equal(each, theirs[name]) for name, each in ours.items()
    )
