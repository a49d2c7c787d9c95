"""mlx-tabular beside scikit-learn and the authors' TabM in torch: score, seconds, memory.

    uv run --with torch,tabm,rtdl_num_embeddings,scikit-learn,pandas benchmarks/tabular.py FOLDER

FOLDER holds adult, diamonds, wine-quality and house-prices, as CSV. Each fit is a process of its
own, one after the other. Both TabM get the same settings, columns, split, bins and epochs of
patience. Writes docs/benchmarks/tabular.json and tabular.md. `--quick` fits one seed on 2,000 rows
and keeps nothing; `--torch-python` names another Python for the authors' packages. Half an hour on
2 cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tabular.page import page
from tabular.tables import TABLES, load, score
from turns.processes import describe_machine

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
WORKER = Path(__file__).parent / "tabular" / "worker.py"
PACKAGES = ("mlx", "mlx-tabular", "mlx-fastcpu", "scikit-learn")
MODELS = ("mlx-tabular", "torch TabM", "HistGradientBoosting", "MLP")
SEEDS = 3
QUICK_ROWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2, help="of both TabM")
    parser.add_argument("--quick", action="store_true", help="one seed, 2,000 rows; keep nothing")
    options = parser.parse_args()
    path = DOCS / "tabular.json"
    results = json.loads(path.read_text()) if path.exists() and not options.quick else {}
    for name in options.only:
        runs: dict[str, list[dict]] = {model: [] for model in options.models}
        for seed in range(1 if options.quick else SEEDS):
            predictions = {}
            table = load(options.folder, name, seed, QUICK_ROWS if options.quick else None)
            for model in options.models:
                python = options.torch_python if model == "torch TabM" else sys.executable
                found, predictions[model] = fit(python, model, table, seed, options)
                found |= {"score": score(table, predictions[model]), "threads": options.threads}
                runs[model].append(found)
                print(name, seed, model, runs[model][-1], flush=True)
            if "HistGradientBoosting" in predictions and "mlx-tabular" in predictions:
                mean = (predictions["HistGradientBoosting"] + predictions["mlx-tabular"]) / 2
                both = "mean of mlx-tabular and HistGradientBoosting"
                runs.setdefault(both, []).append({"score": score(table, mean)})
        results.setdefault("tables", {}).setdefault(name, {}).update(runs)
        results["machine"] = describe_machine(*PACKAGES)
        if not options.quick:
            path.write_text(json.dumps(results, indent=1) + "\n")
            (DOCS / "tabular.md").write_text(page(results))
    if options.quick:
        print(page(results))


def fit(
    python: str, model: str, table: dict, seed: int, options: argparse.Namespace
) -> tuple[dict, np.ndarray]:
    """Fit in a process of its own; return its facts and its predictions of the test rows."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = {k: v for k, v in table.items() if isinstance(v, np.ndarray)}
        np.savez(Path(folder) / "table.npz", **arrays)
        facts = {"model": model, "classes": table["classes"], "seed": seed}
        facts |= {"quick": options.quick, "threads": options.threads}
        command = [python, str(WORKER), folder, json.dumps(facts)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{model}: {done.stderr}")
        return json.loads(done.stdout), np.load(Path(folder) / "predicted.npy")


if __name__ == "__main__":
    main()
