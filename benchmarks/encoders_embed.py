"""Sentence embeddings of 2,000 real sentences: mlx-encoders, mlx-embeddings, sentence-transformers.

    uv run --with mlx-embeddings --with sentence-transformers benchmarks/encoders_embed.py \
        --texts ag-news/train.csv --minilm DIR

`--texts` is a CSV with a column `description`, `--minilm` a folder of all-MiniLM-L6-v2. Each
variant is a process of its own; they take turns. Writes docs/benchmarks/encoders-embeddings.md.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns.processes import describe_machine

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = (
    "mlx",
    "mlx-encoders",
    "mlx-fastcpu",
    "mlx-embeddings",
    "sentence-transformers",
    "torch",
)
VARIANTS = {
    "sentence-transformers": "PyTorch, batches of 32 sorted by length",
    "mlx-encoders": "`encode`, with mlx-fastcpu",
    "mlx-embeddings": "batches of 32 in the order of the texts, with the BLAS of mlx-fastcpu",
    "mlx-embeddings, sorted": "the same, sorted by length first",
}
BATCH, MAX_LENGTH = 32, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with options.texts.open(encoding="utf-8", newline="") as file:
        texts = [row["description"] for row in csv.DictReader(file)][: options.count]
    if options.worker:
        work(options.worker, options.minilm, texts)
        os._exit(0)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    vectors = {}
    for _ in range(options.rounds):
        for name in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"{name} failed")
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            vectors[name] = np.load(found["vectors"])
            seconds[name].append(found["seconds"])
            print(name, found["seconds"], flush=True)
    if options.count == 2000:
        (DOCS / "encoders-embeddings.md").write_text(page(seconds, vectors, len(texts)))


def work(variant: str, folder: Path, texts: list[str]) -> None:
    """Embed once to warm up, then once with the clock; print the seconds and a file of vectors."""
    embed = prepare(variant, folder)
    embed(texts[:128])
    start = time.perf_counter()
    found = embed(texts)
    seconds = time.perf_counter() - start
    path = f"/tmp/embed-{os.getpid()}.npy"
    np.save(path, found)
    print(json.dumps({"seconds": seconds, "vectors": path}), flush=True)


def prepare(variant: str, folder: Path) -> Callable[[list[str]], np.ndarray]:
    """Return a function from texts to vectors."""
    if variant == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu")
        model.max_seq_length = MAX_LENGTH
        return lambda texts: model.encode(texts, batch_size=BATCH, normalize_embeddings=True)
    import mlx.core as mx

    import mlx_fastcpu

    mx.set_default_device(mx.cpu)
    mlx_fastcpu.activate(compiler_flags="native")
    if variant == "mlx-encoders":
        from mlx_encoders import SentenceEncoder

        encoder = SentenceEncoder.from_pretrained(folder, max_length=MAX_LENGTH)
        mlx_fastcpu.patch_nn(encoder)
        return lambda texts: encoder.encode(texts, batch_size=BATCH)
    return mlx_embeddings(folder, variant.endswith("sorted"))


def mlx_embeddings(folder: Path, is_sorted: bool) -> Callable[[list[str]], np.ndarray]:
    import mlx.core as mx
    from mlx_embeddings.utils import load_model
    from transformers import AutoTokenizer

    loaded = load_model(folder)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def embed(texts: list[str]) -> np.ndarray:
        order = np.argsort([len(text) for text in texts]) if is_sorted else np.arange(len(texts))
        found = np.zeros((len(texts), 384), np.float32)
        for start in range(0, len(texts), BATCH):
            rows = order[start : start + BATCH]
            batch = tokenizer([texts[i] for i in rows], padding=True, truncation=True,
                              max_length=MAX_LENGTH, return_tensors="np")  # fmt: skip
            mask = mx.array(batch["attention_mask"])
            output = model(mx.array(batch["input_ids"]), attention_mask=mask)
            found[rows] = np.array(output.text_embeds)
        return found

    return embed


def page(seconds: dict[str, list[float]], vectors: dict[str, np.ndarray], count: int) -> str:
    base = min(seconds["sentence-transformers"])
    lines = [
        "# Sentence embeddings beside mlx-embeddings and sentence-transformers\n\n",
        f"Written by `benchmarks/encoders_embed.py`: {count} news texts, all-MiniLM-L6-v2, "
        f"float32, at most {MAX_LENGTH} tokens, 2 threads, tokenization included, the best of "
        f"{len(seconds['mlx-encoders'])} runs.\n\n",
        "| variant |  | seconds | texts/s | largest difference from sentence-transformers |\n"
        "|---|---|---|---|---|\n",
    ]
    for name, found in seconds.items():
        if not found:
            lines.append(f"| {name} | {VARIANTS[name]} | failed |  |  |\n")
            continue
        best = min(found)
        difference = np.abs(vectors[name] - vectors["sentence-transformers"]).max()
        lines.append(f"| {name} | {VARIANTS[name]} | {best:.1f} ({best / base:.2f}x) | "
                     f"{count / best:.0f} | {difference:.1e} |\n")  # fmt: skip
    machine = describe_machine(*PACKAGES)
    lines.append(f"\n{machine['date']}, {machine['machine']}; {machine['versions']}.\n")
    return "".join(lines)


if __name__ == "__main__":
    main()
