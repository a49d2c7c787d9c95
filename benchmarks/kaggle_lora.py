"""A real text task with all weights, with LoRA and with QLoRA: score, time, size of what is saved.

    uv run benchmarks/kaggle_lora.py --train nlp-disaster/train.csv --encoder DIR --runs FOLDER

DIR is a folder of all-MiniLM-L6-v2, FOLDER keeps the runs; those that are finished are not trained
again. Writes its part of docs/benchmarks/lora.json, and docs/benchmarks/lora.md. About half an hour
on two cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from lora.page import page
from turns.processes import THREADS, describe_machine

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("mlx", "mlx-kaggle", "mlx-lora", "mlx-encoders", "mlx-fastcpu")
VARIANTS = {
    "all weights of the upper half": [],
    "LoRA balanced": ["--lora", "balanced"],
    "QLoRA balanced, 4 bits": ["--lora", "balanced", "--quantize", "4"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="train.csv of nlp-disaster")
    parser.add_argument("--encoder", type=Path, required=True, help="a folder of all-MiniLM-L6-v2")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    options = parser.parse_args()
    found = {name: run(name, arguments, options) for name, arguments in VARIANTS.items()}
    path = DOCS / "lora.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept["kaggle"] = {"machine": describe_machine(*PACKAGES), "variants": found}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    (DOCS / "lora.md").write_text(page(kept, THREADS))


def run(name: str, arguments: list[str], options: argparse.Namespace) -> dict:
    """Train if need be; return scores, seconds, and the bytes of what is needed to predict."""
    folder = options.runs / name.replace(" ", "-").replace(",", "")
    if not (folder / "summary.json").exists():
        command = [
            *(sys.executable, "-m", "mlx_kaggle.cli", "train", "--train", str(options.train)),
            *("--target", "target", "--metric", "f1", "--preset", "standard"),
            *("--encoder", str(options.encoder), "--output", str(folder)),
            *("--members", "text,linear", "--folds", "0", "--set", "text.tta=1", *arguments),
        ]
        subprocess.run(command, check=True)
    summary = json.loads((folder / "summary.json").read_text())
    member = folder / "members/fold-0-seed-0"
    adapter, encoder = member / "adapter", member / "encoder/model.safetensors"
    files = [encoder] if encoder.exists() else [*adapter.iterdir()]
    return {"scores": summary["scores"], "bytes": sum(each.stat().st_size for each in files)}


if __name__ == "__main__":
    main()
