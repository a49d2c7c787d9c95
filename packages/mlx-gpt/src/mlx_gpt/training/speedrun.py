"""The whole path in one run: text, tokenizer, pretraining, fine-tuning, evaluation, a chat.

Each stage leaves a folder that the commands of the same name read; a stage that is done is not done
again, and one that was cut off goes on, so that a stopped speedrun is continued by starting it
again.

    data/       train/ and valid/, shards of the text
    tokenizer/  tokenizer.json
    pretrain/   run folder of the base model
    sft/        run folder of the chat model, where there are conversations
    chat.md     answers as they came out
    report.md, report.json, curves.png
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mlx_gpt.data.documents import find_files, hold_out, read_files
from mlx_gpt.report.display import duration, printable
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.tokenizer.compression import measure, report
from mlx_gpt.tokenizer.encoding import replace_surrogates
from mlx_gpt.training import pretrain_config as base
from mlx_gpt.training.speedrun_settings import (
    DATA_FILES,
    SpeedrunConfig,
    check_files,
    check_settings,
    write_text,
)
from mlx_shards import Shard, local_shards, write_shards
from mlx_trainer import FolderLock, RunFolder, world_size
from mlx_trainer.owned import delete_owned

_FEWEST_CHARS = 1000  # of a text, and even that teaches next to nothing
_HELD_CONVERSATIONS = 20  # one of so many

Say = Callable[[str], object]


def speedrun(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Do all that is not done yet; lines for the reader go to `say`."""
    if world_size() > 1:
        raise ValueError("a speedrun is one process; `mlx-gpt train` and `sft` can share work")
    if not folder.exists():
        check_files(config)  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        check_settings(config, folder)
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
        ("report", write_report),
    )
    for number, (name, stage) in enumerate(stages, 1):
        say(f"[{number}/{len(stages)}] {name}")
        stage(config, folder, say)
    say(f"done in {duration(time.monotonic() - began)}")
    say(f"report: {folder / 'report.md'}; what it said: {folder / 'chat.md'}")
    say(f"next: mlx-gpt chat --model {model_run(folder)}")


def prepare_text(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Write shards of the shuffled text, and conversations where the text brings its own."""
    data = folder / "data"
    if (data / "train" / "manifest.json").exists():
        return
    delete_owned(folder, DATA_FILES)  # shards of a start that was cut off
    if config.text:
        shards = find_files(config.text, note=lambda line: say(f"  {line}"))
        files = [(shard.name, whole_texts(shard, say)) for shard in shards]
    else:
        from mlx_gpt.data.python_docs import find_docstrings, make_conversations, make_documents

        found = list(find_docstrings())
        files = [("documentation", make_documents(found))]
        write_lines(folder / "conversations.jsonl", make_conversations(found))
    size = sum(len(text) for _, texts in files for text in texts)
    if size < _FEWEST_CHARS:
        raise ValueError(
            f"the text has {size:,} characters; a speedrun needs at least {_FEWEST_CHARS:,}, some "
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
    """Return the documents of a file as the tokenizer reads them: without halves of characters."""
    texts = list(read_files([shard]))
    whole = [replace_surrogates(text) for text in texts]
    changed = sum(before != after for before, after in zip(texts, whole, strict=True))
    if changed:
        say(f"  {shard.name}: half a surrogate pair became U+FFFD in {changed:,} document(s)")
    return whole


def train_tokenizer(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Learn the tokens from the training text."""
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
    from mlx_gpt.training.runs import run_pretraining

    steps = config.steps or steps_of_one_epoch(config, folder)
    settings = base.PretrainConfig(
        data_config(folder),
        base.ModelConfig(config.depth, config.sequence_len),
        base.TrainingConfig(
            steps,
            batch_tokens=config.batch_tokens,
            device_batch_size=config.device_batch_size,
            rate_scale=config.rate_scale,
            seed=config.seed,
        ),
        base.ReportConfig(
            max(1, steps // 8), sample_every=max(1, steps // 2), checkpoint_seconds=60.0
        ),
    )
    run_stage(folder / "pretrain", settings, run_pretraining)


def data_config(folder: Path) -> base.DataConfig:
    """Return the training and validation data."""
    train, valid = (str(folder / "data" / name) for name in ("train", "valid"))
    return base.DataConfig(train, str(folder / "tokenizer"), valid)


def steps_of_one_epoch(config: SpeedrunConfig, folder: Path) -> int:
    """Return how many updates use each document once: small texts are soon known by heart."""
    from mlx_gpt.data.streams import streams

    training = base.TrainingConfig(device_batch_size=config.device_batch_size, seed=config.seed)
    model = base.ModelConfig(config.depth, config.sequence_len)
    settings = base.PretrainConfig(data_config(folder), model, training)
    train, _ = streams(settings, Tokenizer.load(folder / "tokenizer"), epochs=1)
    rows = sum(batch.rows for batch in train)
    return max(1, rows * config.sequence_len // config.batch_tokens)


def fine_tune(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Train the chat model, if there are conversations."""
    files = conversation_files(config, folder)
    if not files:
        say("  skipped: no conversations (--chat)")
        return
    from mlx_gpt.training.finetuning_runs import run_finetuning
    from mlx_gpt.training.sft import DataConfig, SftConfig, TrainingConfig

    train, valid = split_conversations(files, folder, config.seed)
    rows = max(1, config.sft_batch_tokens // config.sequence_len)
    settings = SftConfig(
        str(folder / "pretrain"),
        DataConfig([str(train)], [str(valid)]),
        TrainingConfig(
            config.sft_epochs,
            batch_tokens=rows * config.sequence_len,
            device_batch_size=math.gcd(rows, config.device_batch_size),
            seed=config.seed,
        ),
    )
    run_stage(folder / "sft", settings, run_finetuning)


def conversation_files(config: SpeedrunConfig, folder: Path) -> list[str]:
    """Return the files of conversations: those given, or those that the text brought."""
    brought = folder / "conversations.jsonl"
    return config.conversations or ([str(brought)] if brought.exists() else [])


def split_conversations(files: list[str], folder: Path, seed: int) -> tuple[Path, Path]:
    """Write the conversations as two files, the smaller one for validation; return them."""
    from mlx_gpt.data.formats import read_mixture

    paths = folder / "sft-train.jsonl", folder / "sft-valid.jsonl"
    if not all(path.exists() for path in paths):
        rows = list(read_mixture(files))
        random.Random(seed).shuffle(rows)
        held = max(1, len(rows) // _HELD_CONVERSATIONS)
        for path, chosen in zip(paths, (rows[held:], rows[:held]), strict=True):
            write_lines(path, chosen)
    return paths


def evaluate_models(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Measure bits per byte of held-out text, and answers to questions where there are any."""
    from mlx_gpt.evaluate.evaluation import (
        FILE_NAME,
        EvaluationConfig,
        evaluate_folder,
        format_table,
        save_evaluation,
    )

    core = Path(config.core) if config.core else None
    asked = EvaluationConfig(bpb=str(folder / "data" / "valid"), core=core)
    for name in ("pretrain", "sft"):
        run = folder / name
        if run.exists() and not (run / FILE_NAME).exists():
            found = evaluate_folder(run, asked)
            save_evaluation(found, run)
            say(f"  {name}: " + format_table(found).replace("\n", "\n  "))


def write_chat(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Ask the model, and write what it says as it comes."""
    from mlx_gpt.data.conversation import render_for_completion
    from mlx_gpt.engine import Engine, Request, Sampling
    from mlx_gpt.models.files import load

    run = model_run(folder)
    model, tokenizer = load(run)
    chats = run.name == "sft"
    questions = list(config.questions) + (held_questions(folder) if chats else [])
    requests = []
    for seed, question in enumerate(questions):
        ids = [tokenizer.bos_id, *tokenizer.encode(question)]
        if chats:
            answer = {"role": "assistant", "content": ""}
            messages = [{"role": "user", "content": question}, answer]
            ids = render_for_completion(tokenizer, {"messages": messages})
        requests.append(Request(ids, 96, Sampling(0.6, top_k=50, seed=seed)))
    answers = [completion.text for completion in Engine(model, tokenizer).generate(requests)]
    lines = [f"# What {run} said", "", "Temperature 0.6, top-k 50, seeds 0, 1, 2 and so on.", ""]
    for question, answer in zip(questions, answers, strict=True):
        lines += [f"**{question}**", "", answer.strip() or "(nothing)", ""]
        say(printable(f"  > {question}\n  {' '.join(answer.split())}"))
    write_text(folder / "chat.md", "\n".join(lines))


def held_questions(folder: Path, count: int = 5) -> list[str]:
    """Return the first questions of conversations that were not trained on."""
    rows = (folder / "sft-valid.jsonl").read_text("utf-8").splitlines()
    firsts = [json.loads(row)["messages"][0] for row in rows]
    asked = [each["content"] for each in firsts if isinstance(each["content"], str)]
    return [text for text in asked if len(text) < 200][:count]


def write_report(config: SpeedrunConfig, folder: Path, say: Say) -> None:
    """Write the report card of all runs."""
    from mlx_gpt.report import write_report_card

    write_report_card([folder], folder)


def model_run(folder: Path) -> Path:
    """Return the run of the last model there is."""
    return folder / "sft" if (folder / "sft" / "model").exists() else folder / "pretrain"


def run_stage(output: Path, settings: object, start: Callable[..., None]) -> None:
    """Start, continue or skip the run in `output`."""
    if (output / "model" / "config.json").exists() and not unfinished(output):
        return
    start(settings, output, resume=(output / "config.yaml").exists())


def unfinished(output: Path) -> bool:
    """Return whether a run was interrupted."""
    return not any(line["event"] == "end" for line in RunFolder.open(output).metrics())


def write_lines(path: Path, rows: Iterable[Mapping]) -> None:
    """Write JSON lines in one step."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
