"""mlx-shards beside nanochat's loader and mlx-data: speed, stalls, packing, and a day's use.

    uv run --with tokenizers --with mlx-data benchmarks/shards.py --data DIR [--only PART ...]

`--data` is a folder of parquet shards with a column `text`; the last one is left out, as it would
validate. Parts: throughput, stall, packing, day. Results are kept in
`docs/benchmarks/shards.json`, and `docs/benchmarks/shards.md` is written from all of them, so that
parts can be run one at a time. `--rounds` and `--documents` make it smaller for a trial.
"""

import argparse
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from shards import day, packing, stall, throughput
from shards.page import page

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
PARTS = {
    "throughput": throughput.measure,
    "stall": stall.measure,
    "packing": packing.measure,
    "day": day.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--documents", type=int, default=0, help="of each shard; 0 means all")
    parser.add_argument("--output", type=Path, default=DOCS)
    options = parser.parse_args()
    for part in options.only:
        found = PARTS[part](options)
        print(part, json.dumps(found), flush=True)
        save(options.output, part, found)


def save(folder: Path, part: str, found: dict) -> None:
    path = folder / "shards.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[part] = found
    results["machine"] = {
        "system": f"{platform.machine()} {platform.system()}",
        "cores": os.cpu_count(),
        "versions": {name: version_of(name) for name in ("mlx", "mlx-data", "tokenizers")},
    }
    path.write_text(json.dumps(results, indent=1) + "\n")
    (folder / "shards.md").write_text(page(results))


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
