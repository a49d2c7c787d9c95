"""What a speedrun is asked for: written down by the first start, the same for those after it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from mlx_gpt._atomic import write_atomic
from mlx_gpt.data.documents import find_files
from mlx_trainer import dump_config, fingerprint, load_config
from mlx_trainer.owned import delete_owned

# The shards that a speedrun writes, as glob patterns.
DATA_FILES = tuple(
    f"data/{part}/{name}"
    for part in ("train", "valid")
    for name in ("shard_*.parquet", "manifest.json")
)
# The settings of each stage in order, and the files it leaves that can be made again in no time.
_STAGES = {
    "data": (("text", "seed"), (*DATA_FILES, "conversations.jsonl")),
    "tokenizer": (
        ("vocab_size",), ("tokenizer/tokenizer*.json",)
    ),
    "pretrain": (
        ("depth", "sequence_len", "batch_tokens", "device_batch_size", "steps", "rate_scale"), ()
    ),
    "sft": (
        ("conversations", "sft_epochs", "sft_batch_tokens"), ("sft-train.jsonl", "sft-valid.jsonl")
    ),
    "evaluation": (("core",), ("pretrain/evaluation.json", "sft/evaluation.json")),
    "chat": (("questions",), ()),
}  # fmt: skip

QUESTIONS = ["Hello! Who are you?", "What is the capital of France?", "Tell me a story."]


@dataclass(frozen=True)
class SpeedrunConfig:
    """What to learn from, and how large; no `text` at all means this Python's documentation."""

    text: list[str] = field(default_factory=list)  # files and folders
    conversations: list[str] = field(default_factory=list)  # JSON lines
    depth: int = 4
    vocab_size: int = 4096
    sequence_len: int = 256
    batch_tokens: int = 8192
    device_batch_size: int = 32
    steps: int | None = None  # default: once over the text
    # nanochat's rates fall with the root of the batch. Measured with 8,192 tokens, depth 4 and 120
    # steps: 1.83 bits per byte at twice these rates, 1.79 at four times.
    rate_scale: float = 4.0
    sft_epochs: int = 3
    sft_batch_tokens: int = 2048  # rounded down to whole rows
    core: str | None = None  # folder of multiple-choice questions
    questions: list[str] = field(default_factory=lambda: list(QUESTIONS))
    seed: int = 0


def check_settings(config: SpeedrunConfig, folder: Path) -> None:
    """Write the settings, or compare them with those that the folder was begun with.

    What no model was trained with may change, and so may the texts. What would stop a later stage
    is found here, before anything is computed.
    """
    file, read = folder / "speedrun.yaml", folder / "inputs.json"
    inputs = {name: [Path(each) for each in getattr(config, name)]
              for name in ("text", "conversations")}  # fmt: skip
    for path in (*inputs["text"], *inputs["conversations"]):
        if path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{path} lies in {folder}, where files are replaced; move it out of it"
            )
    if file.exists():
        begun = load_config(SpeedrunConfig, file=file)
        other = [name for name, value in vars(config).items() if value != getattr(begun, name)]
        before = json.loads(read.read_text("utf-8")) if read.exists() else {}
        for name, paths in inputs.items():
            now = [fingerprint(path) for path in paths]
            if name not in other and before.get(name, now) != now:
                other.append(name)
        if other:
            _change(config, folder, other)
    else:
        check_files(config)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty and no speedrun; choose another --output")
        write_text(file, dump_config(config))
    prints = {name: [fingerprint(path) for path in paths] for name, paths in inputs.items()}
    write_text(read, json.dumps(prints, indent=1) + "\n")


def _change(config: SpeedrunConfig, folder: Path, other: list[str]) -> None:
    """Write changed settings, and remove what was made with others; models are never removed."""
    file = folder / "speedrun.yaml"
    stages = list(_STAGES)
    affected = next(
        stages[i:] for i, name in enumerate(stages) if set(_STAGES[name][0]) & set(other)
    )
    runs = [folder / name for name in ("pretrain", "sft") if name in affected]
    begun = [str(run) for run in runs if run.exists()]
    if begun:
        raise ValueError(
            f"{folder} was begun with another {', '.join(other)} ({file}); give the same settings "
            f"to go on, or another --output, or remove {' and '.join(begun)} to train anew"
        )
    check_files(config)
    delete_owned(folder, [pattern for name in affected for pattern in _STAGES[name][1]])
    write_text(file, dump_config(config))


def check_files(config: SpeedrunConfig) -> None:
    """Raise an error where batch, texts, conversations or questions cannot be used."""
    from mlx_gpt.data.formats import read_mixture
    from mlx_gpt.evaluate.core_tasks import read_core_tasks
    from mlx_gpt.training.batch_sizes import micro_batches

    micro_batches(config.batch_tokens, config.device_batch_size, config.sequence_len)
    find_files(config.text)
    if config.conversations and len(read_mixture(config.conversations)) < 2:
        raise ValueError(f"{config.conversations[0]}: one conversation; one trains, one validates")
    if config.core:
        read_core_tasks(Path(config.core))


def write_text(path: Path, text: str) -> None:
    """Write a file in one step."""
    # A question may have come from a terminal whose text is not UTF-8.
    write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8", errors="replace"))
