"""Export a trained classifier to ONNX: size, difference, accuracy and time, also of 8-bit weights.

    uv run --with onnx --with onnxruntime benchmarks/encoders_onnx.py CLASSIFIER TEXTS.csv \
        --text-columns title description --label-column label

CLASSIFIER is a folder with a trained model and its tokenizer. Labels are ids of classes or names in
its config. MLX, onnxruntime with float32 and with 8-bit weights take turns in processes of their
own. Writes docs/benchmarks/encoders-onnx.md, or prints it with `--print`.
"""

import argparse
import csv
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from encoders.onnx_latency import SHAPES
from turns.processes import Worker, describe_machine, take_turns
from turns.timing import DIRTY, summarize

from mlx_encoders import Tokenizer
from mlx_encoders.export import ExportReport, export_onnx
from mlx_encoders.export.loading import load_for_export, read_texts

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks" / "encoders-onnx.md"
PACKAGES = ("mlx", "mlx-encoders", "mlx-fastcpu", "onnx", "onnxruntime")
VARIANTS = {
    "mlx": "MLX with mlx-fastcpu",
    "float32": "onnxruntime, float32",
    "int8": "onnxruntime, 8-bit weights",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("classifier", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--text-columns", nargs="+", default=["text"])
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--rows", type=int, default=1000, help="texts to measure accuracy on")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--print", action="store_true", help="print the page; write nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        report, agreement = export(options, Path(folder))
        workers = []
        for variant in VARIANTS:
            path = options.classifier.resolve() if variant == "mlx" else folder
            worker = Worker.start("encoders.onnx_latency", str(path), variant, folder)
            if worker is not None:
                workers.append(stack.enter_context(worker))
        take_turns(workers, options.rounds)
        text = page(options, report, agreement, workers)
    if options.print:
        print(text)
    else:
        PAGE.write_text(text)


def export(options: argparse.Namespace, folder: Path) -> tuple[ExportReport, float]:
    """Write both files into `folder`; also return how often their classes agree."""
    from mlx_encoders.export.verify import onnx_runner, text_batches

    model = load_for_export(options.classifier)
    tokenizer = Tokenizer.from_folder(options.classifier)
    texts, labels = read_sample(options, folder, model.config)
    report = export_onnx(model, folder, tokenizer=tokenizer, texts=texts, labels=labels, int8=True)
    assert report.int8 is not None
    batches = text_batches(model.config, tokenizer, texts)
    classes = [
        np.concatenate([run(batch)["logits"].argmax(axis=1) for batch in batches])
        for run in (onnx_runner(report.path), onnx_runner(report.int8.path))
    ]
    return report, float((classes[0] == classes[1]).mean())


def read_sample(
    options: argparse.Namespace, folder: Path, config: object
) -> tuple[list[str], list[int]]:
    """Return the first rows of the table, its text columns joined by a period."""
    with options.texts.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: options.rows]
    path = folder / "sample.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in rows:
            text = ". ".join(row[column] for column in options.text_columns)
            writer.writerow([text, row[options.label_column]])
    texts, labels = read_texts(path, "text", "label", config)
    assert labels is not None
    return texts, labels


def page(
    options: argparse.Namespace, report: ExportReport, agreement: float, workers: list[Worker]
) -> str:
    """Return the page."""
    int8, about = report.int8, describe_machine(*PACKAGES)
    assert int8 is not None
    count = sum(1 for _ in options.texts.open(encoding="utf-8")) - 1
    lines = [
        *("# mlx-encoders: ONNX", "", "Written by `benchmarks/encoders_onnx.py`.", ""),
        f"`{options.classifier.name}`, a classifier trained with mlx-encoders, on",
        f"{min(options.rows, count)} rows of `{options.texts.parent.name}/{options.texts.name}`.",
        "",
        "| file | MB | largest difference of a logit | accuracy |",
        "|---|---|---|---|",
        f"| float32 | {report.size / 1e6:.1f} | {report.max_difference:.1e} to MLX "
        f"| {report.accuracy:.4f} |",
        f"| 8-bit weights | {int8.size / 1e6:.1f} | {int8.max_difference:.1e} to float32 "
        f"| {int8.accuracy:.4f} |",
        "",
        f"The cosine similarity of the logits of both files is {int8.cosine:.5f}, and",
        f"{agreement:.2%} of the rows get the same class. MLX is compared on random ids with",
        "padding on each side and on 8 of the texts.",
        "",
        "Milliseconds for a batch, on two threads:",
        "",
        "| | " + " | ".join(f"{B} x {L} tokens" for B, L in SHAPES) + " |",
        "|---" * (len(SHAPES) + 1) + "|",
        *(f"| {VARIANTS[each.variant]} | {latencies(each)} |" for each in workers),
        "",
        "Medians of samples during which other processes used less than"
        f" {DIRTY:.0%} of the machine; a star marks the least of disturbed samples.",
        "",
        f"{about['machine']}; {about['versions']}; {about['date']}.",
        "",
    ]
    return "\n".join(lines)


def latencies(worker: Worker) -> str:
    """Return the milliseconds of each shape."""
    cells = []
    for B, L in SHAPES:
        found = summarize(worker.samples[f"{B}x{L}"])
        star = "" if found["clean"] >= 2 else "*"
        cells.append(f"{1e3 * found['seconds']:.1f}{star}")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
