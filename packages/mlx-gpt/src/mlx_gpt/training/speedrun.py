"""All stages in one run: text, tokenizer, pretraining, fine-tuning, evaluation, a chat.

Each stage writes a folder that the command of the same name can read. To continue a stopped
speedrun, start it again: finished stages are skipped, an interrupted one is resumed.

    data/       train/ and valid/, shards of the text
    tokenizer/  tokenizer.json
    pretrain/   run folder of the base model
    sft/        run folder of the chat model, if there are conversations
    chat.md     answers to a few questions
    report.md, report.json, curves.png
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mlx_gpt.data import python_docs
from mlx_gpt.data.conversation import render_for_completion
from mlx_gpt.data.documents import find_files, hold_out, read_files
from mlx_gpt.data.formats import read_mixture
from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.evaluate import evaluation
from mlx_gpt.models.files import find_model_folder, load
from mlx_gpt.printable import printable
from mlx_gpt.report import write_report_card
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.tokenizer.compression import measure, report
from mlx_gpt.tokenizer.encoding import replace_surrogates
from mlx_gpt.training.display import duration
from mlx_gpt.training.pretrain import run_pretraining
from mlx_gpt.training.settings import (
    PretrainConfig,
    PretrainData,
    PretrainModel,
    PretrainReport,
    PretrainTraining,
    SftConfig,
    SftData,
    SftTraining,
)
from mlx_gpt.training.sft import run_finetuning
from mlx_gpt.training.speedrun_settings import (
    DATA_FILES,
    SpeedrunConfig,
    check_files,
    check_speedrun,
    write_text,
)
from mlx_gpt.training.streams import open_streams
from mlx_shards import Shard, local_shards, write_shards
from mlx_trainer import FolderLock, RunFolder, delete_owned, world_size

_MIN_CHARS = 1000  # of the text; even that is too little for a useful model
_HELD_OUT = 20  # one conversation in 20 validates

Say = Callable[[str], object]


def speedrun(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Run the stages that are not finished; `say` gets lines to show."""
    if world_size() > 1:
        raise ValueError("a speedrun is one process; `mlx-gpt train` and `sft` can share work")
    if not folder.exists():
        check_files(config)  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        check_speedrun(config, folder)
        _run_stages(config, folder, say)


def _run_stages(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    began = time.monotonic()
    stages = (
        ("text", prepare_text),
        ("tokenizer", train_tokenizer),
        ("pretraining", pretrain_base),
        ("fine-tuning", fine_tune),
        ("evaluation", evaluate_models),
        ("chat", write_chat),
        ("report", lambda config, folder, say: write_report_card([folder], folder)),
    )
    for number, (name, stage) in enumerate(stages, 1):
        say(f"[{number}/{len(stages)}] {name}")
        stage(config, folder, say)
    say(f"done in {duration(time.monotonic() - began)}")
    say(f"report: {folder / 'report.md'}; answers: {folder / 'chat.md'}")
    say(f"next: mlx-gpt chat --model {model_run(folder)}")


def prepare_text(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Write shards of the shuffled text, and the conversations of Python's documentation."""
    data = folder / "data"
    if (data / "train" / "manifest.json").exists():
        return
    delete_owned(folder, DATA_FILES)  # incomplete shards of an interrupted start
    if config.text:
        shards = find_files(config.text, note=lambda line: say(f"  {line}"))
        files = [(shard.name, whole_texts(shard, say)) for shard in shards]
    else:
        found = list(python_docs.find_docstrings())
        files = [("documentation", python_docs.make_documents(found))]
        write_lines(folder / "conversations.jsonl", python_docs.make_conversations(found))
    size = sum(len(text) for _, texts in files for text in texts)
    if size < _MIN_CHARS:
        raise ValueError(
            f"the text has {size:,} characters; a speedrun needs at least {_MIN_CHARS:,}, some "
            "to train on and the rest to validate on"
        )
    train, held = hold_out(files, config.seed)
    write_shards(held, data / "valid")
    write_shards(train, data / "train")
    say(
        f"  {len(train) + len(held):,} documents, {size:,} characters, of which {len(held):,} "
        f"documents, {sum(map(len, held)):,} characters are held out"
    )


def whole_texts(shard: Shard, say: Say) -> list[str]:
    """Return the documents of a file, unpaired surrogates replaced as the tokenizer does."""
    texts = list(read_files([shard]))
    whole = [replace_surrogates(text) for text in texts]
    changed = sum(before != after for before, after in zip(texts, whole, strict=True))
    if changed:
        say(f"  {shard.name}: replaced unpaired surrogates in {changed:,} document(s)")
    return whole


def train_tokenizer(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Train the tokenizer on the training text."""
    if (folder / "tokenizer" / "tokenizer.json").exists():
        return
    began = time.monotonic()
    train, valid = (local_shards(folder / "data" / name) for name in ("train", "valid"))
    read: list[int] = []
    tokenizer = Tokenizer.train(read_files(train), config.vocab_size, progress=read.append)
    tokenizer.save(folder / "tokenizer")
    held = {"held-out text": list(read_files(valid))}
    rows = report(measure({"this": tokenizer.encode_batch}, held))
    write_text(folder / "tokenizer" / "tokenizer_report.json", json.dumps(rows, indent=2) + "\n")
    say(
        f"  {tokenizer.vocab_size:,} tokens from {sum(read):,} characters in "
        f"{duration(time.monotonic() - began)}; {rows[0]['bytes_per_token']:.2f} bytes a token on "
        "the held-out text"
    )


def pretrain_base(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Train the base model."""
    steps = config.steps or steps_of_one_epoch(config, folder)
    settings = PretrainConfig(
        data_config(folder),
        PretrainModel(config.depth, config.sequence_len),
        PretrainTraining(
            steps,
            batch_tokens=config.batch_tokens,
            device_batch_size=config.device_batch_size,
            rate_scale=config.rate_scale,
            seed=config.seed,
        ),
        PretrainReport(
            max(1, steps // 8), sample_every=max(1, steps // 2), checkpoint_seconds=60.0
        ),
    )
    run_stage(folder / "pretrain", settings, run_pretraining)


def data_config(folder: Path) -> PretrainData:
    """Return the training and validation data."""
    train, valid = (str(folder / "data" / name) for name in ("train", "valid"))
    return PretrainData(train, str(folder / "tokenizer"), valid)


def steps_of_one_epoch(config: SpeedrunConfig, folder: Path) -> int:
    """Return the updates of one epoch: more would only memorize a small text."""
    training = PretrainTraining(device_batch_size=config.device_batch_size, seed=config.seed)
    model = PretrainModel(config.depth, config.sequence_len)
    settings = PretrainConfig(data_config(folder), model, training)
    train, _ = open_streams(settings, Tokenizer.load(folder / "tokenizer"), epochs=1)
    rows = sum(batch.rows for batch in train)
    return max(1, rows * config.sequence_len // config.batch_tokens)


def fine_tune(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Train the chat model, if there are conversations."""
    files = conversation_files(config, folder)
    if not files:
        say("  skipped: no conversations (--chat)")
        return
    train, valid = split_conversations(files, folder, config.seed)
    rows = max(1, config.sft_batch_tokens // config.sequence_len)
    settings = SftConfig(
        str(folder / "pretrain"),
        SftData([str(train)], [str(valid)]),
        SftTraining(
            config.sft_epochs,
            batch_tokens=rows * config.sequence_len,
            device_batch_size=math.gcd(rows, config.device_batch_size),
            seed=config.seed,
        ),
    )
    run_stage(folder / "sft", settings, run_finetuning)


def conversation_files(config: SpeedrunConfig, folder: Path) -> list[str]:
    """Return the given files of conversations, or those of Python's documentation."""
    documented = folder / "conversations.jsonl"
    return config.conversations or ([str(documented)] if documented.exists() else [])


def split_conversations(files: list[str], folder: Path, seed: int) -> tuple[Path, Path]:
    """Write a file of conversations to train on and a smaller one to validate on; return both."""
    paths = folder / "sft-train.jsonl", folder / "sft-valid.jsonl"
    if not all(path.exists() for path in paths):
        rows = list(read_mixture(files))
        random.Random(seed).shuffle(rows)
        held = max(1, len(rows) // _HELD_OUT)
        for path, chosen in zip(paths, (rows[held:], rows[:held]), strict=True):
            write_lines(path, chosen)
    return paths


def evaluate_models(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Measure bits per byte of held-out text, and accuracy if there are questions."""
    core = Path(config.core) if config.core else None
    questions = evaluation.EvaluationConfig(bpb=str(folder / "data" / "valid"), core=core)
    for name in ("pretrain", "sft"):
        run = folder / name
        if run.exists() and not (run / evaluation.FILE_NAME).exists():
            found = evaluation.evaluate_folder(run, questions)
            evaluation.save_evaluation(found, run)
            say(f"  {name}: " + evaluation.format_table(found).replace("\n", "\n  "))


def write_chat(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Ask the last model, and write its answers."""
    run = model_run(folder)
    model, _ = load(run)
    tokenizer = Tokenizer.load(find_model_folder(run))
    chats = run.name == "sft"
    questions = list(config.questions) + (held_out_questions(folder) if chats else [])
    requests = []
    for seed, question in enumerate(questions):
        ids = [tokenizer.bos_id, *tokenizer.encode(question)]
        if chats:
            answer = {"role": "assistant", "content": ""}
            messages = [{"role": "user", "content": question}, answer]
            ids = render_for_completion(tokenizer, {"messages": messages})
        requests.append(Request(ids, 96, Sampling(0.6, top_k=50, seed=seed)))
    answers = [completion.text for completion in Engine(model, tokenizer).generate(requests)]
    lines = [f"# Answers of {run}", "", "Temperature 0.6, top-k 50, seeds 0, 1, 2 and so on.", ""]
    for question, answer in zip(questions, answers, strict=True):
        lines += [f"**{question}**", "", answer.strip() or "(nothing)", ""]
        say(printable(f"  > {question}\n  {' '.join(answer.split())}"))
    write_text(folder / "chat.md", "\n".join(lines))


def held_out_questions(folder: Path, count: int = 5) -> list[str]:
    """Return the first questions of held-out conversations."""
    rows = (folder / "sft-valid.jsonl").read_text("utf-8").splitlines()
    firsts = [json.loads(row)["messages"][0] for row in rows]
    asked = [each["content"] for each in firsts if isinstance(each["content"], str)]
    return [text for text in asked if len(text) < 200][:count]


def model_run(folder: Path) -> Path:
    """Return the run of the last model."""
    return folder / "sft" if (folder / "sft" / "model").exists() else folder / "pretrain"


def run_stage(output: Path, settings: object, start: Callable[..., None]) -> None:
    """Start, resume or skip the run in `output`."""
    if (output / "model" / "config.json").exists() and is_finished(output):
        return
    start(settings, output, resume=(output / "config.yaml").exists())


def is_finished(output: Path) -> bool:
    """Return whether a run is finished."""
    return any(line["event"] == "end" for line in RunFolder.open(output).metrics())


def write_lines(path: Path, rows: Iterable[Mapping]) -> None:
    """Write JSON lines atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
