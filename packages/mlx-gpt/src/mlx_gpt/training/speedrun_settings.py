"""The settings of a speedrun: the first start writes them, later starts must match them."""

# ruff: noqa: RUF009 (`setting` makes a field)

import json
from dataclasses import dataclass
from pathlib import Path

# Not imported, because this module must stay light for `--help`.
import mlx_trainer
from mlx_trainer import write_atomic
from mlx_trainer.settings import setting

# The shards that a speedrun writes, as glob patterns.
DATA_FILES = tuple(
    f"data/{part}/{name}"
    for part in ("train", "valid")
    for name in ("shard_*.parquet", "manifest.json")
)
# The settings of each stage in order, and its files that are deleted when one of these changes.
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


@dataclass(frozen=True)
class SpeedrunConfig:
    """Data and sizes; without `text`, the documentation in Python's standard library."""

    text: list[str] = setting([], "Files and folders of text.")
    conversations: list[str] = setting([], "JSON lines of conversations.")
    depth: int = setting(4, "Layers.", flag="--depth", at_least=1)
    vocab_size: int = setting(4096, "Tokens of the vocabulary.", flag="--vocab-size", at_least=1)
    sequence_len: int = setting(256, "Tokens per row.", flag="--sequence-len", at_least=1)
    batch_tokens: int = setting(8192, "Tokens per update.", flag="--batch-tokens", at_least=1)
    device_batch_size: int = setting(
        32, "Rows per micro-batch.", flag="--device-batch-size", at_least=1
    )
    steps: int | None = setting(
        None, "Updates.", flag="--steps", at_least=1, default_text="one epoch"
    )
    # nanochat's rates fall with the root of the batch. Measured with 8,192 tokens, depth 4 and 120
    # steps: 1.83 bits per byte at twice these rates, 1.79 at four times.
    rate_scale: float = setting(4.0, "Multiplies all rates of pretraining.", above=0)
    sft_epochs: int = setting(3, "Passes over the conversations.", flag="--sft-epochs", at_least=1)
    sft_batch_tokens: int = setting(
        2048, "Tokens per update of fine-tuning, rounded down to whole rows.", at_least=1
    )
    core: str | None = setting(
        None, "Folder of multiple-choice questions to measure with.", flag="--core", path="folder"
    )
    questions: list[str] = setting(
        ["Hello! Who are you?", "What is the capital of France?", "Tell me a story."],
        "Question to ask at the end; repeatable.",
        flag="--question",
    )
    seed: int = setting(0, "Seed of texts, weights and order.", flag="--seed", at_least=0)


def check_speedrun(config: SpeedrunConfig, folder: Path) -> None:
    """Write the settings of a new folder, or compare them with those of its first start.

    Settings and texts may change until a model was trained with them. Raises `ValueError` for
    everything that would stop a later stage.
    """
    file, read = folder / "speedrun.yaml", folder / "inputs.json"
    inputs = {name: [Path(each) for each in getattr(config, name)]
              for name in ("text", "conversations")}  # fmt: skip
    for path in (*inputs["text"], *inputs["conversations"]):
        if path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} is in {folder}, where files are replaced; move it elsewhere")
    if file.exists():
        started = mlx_trainer.load_config(SpeedrunConfig, file=file)
        other = [name for name, value in vars(config).items() if value != getattr(started, name)]
        before = json.loads(read.read_text("utf-8")) if read.exists() else {}
        for name, paths in inputs.items():
            now = [mlx_trainer.fingerprint(path) for path in paths]
            if name not in other and before.get(name, now) != now:
                other.append(name)
        if other:
            _change(config, folder, other)
    else:
        check_files(config)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty and no speedrun; choose another --output")
        write_text(file, mlx_trainer.dump_config(config))
    prints = {
        name: [mlx_trainer.fingerprint(path) for path in paths] for name, paths in inputs.items()
    }
    write_text(read, json.dumps(prints, indent=1) + "\n")


def _change(config: SpeedrunConfig, folder: Path, other: list[str]) -> None:
    """Write changed settings, and delete the files that depend on them, but never models."""
    file = folder / "speedrun.yaml"
    stages = list(_STAGES)
    affected = next(
        stages[i:] for i, name in enumerate(stages) if set(_STAGES[name][0]) & set(other)
    )
    runs = [folder / name for name in ("pretrain", "sft") if name in affected]
    if trained := [str(run) for run in runs if run.exists()]:
        raise ValueError(
            f"{folder} was started with another {', '.join(other)} ({file}); give the same "
            "settings to continue, or another --output, or remove "
            f"{' and '.join(trained)} to train again"
        )
    check_files(config)
    mlx_trainer.delete_owned(folder, [pattern for name in affected for pattern in _STAGES[name][1]])
    write_text(file, mlx_trainer.dump_config(config))


def check_files(config: SpeedrunConfig) -> None:
    """Raise an error if batch, texts, conversations or questions cannot be used."""
    from mlx_gpt.data.documents import find_files
    from mlx_gpt.data.formats import read_mixture
    from mlx_gpt.evaluate.core_tasks import read_core_tasks
    from mlx_gpt.training.plan import accumulation_steps

    accumulation_steps(config.batch_tokens, config.device_batch_size, config.sequence_len)
    find_files(config.text)
    if config.conversations and len(read_mixture(config.conversations)) < 2:
        raise ValueError(f"{config.conversations[0]}: one conversation; at least two are needed")
    if config.core:
        read_core_tasks(Path(config.core))


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    # A question typed in a terminal may not be UTF-8.
    write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8", errors="replace"))
