"""The whole path on this machine, from raw text to a chat: `mlx-gpt speedrun`, kept as it came out.

    uv run benchmarks/gpt_speedrun.py --text SHARDS --text FILE.txt --chat FILE.jsonl --output RUN

Text and conversations are the reader's; options after `--` go to `mlx-gpt speedrun`. What it wrote
(report card, curves, answers) and what it printed are copied to `docs/benchmarks/gpt-speedrun/`.
About 20 minutes on 2 cores with 16 MB of text.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from turns.processes import describe_machine

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks" / "gpt-speedrun"
PACKAGES = ("mlx", "mlx-gpt", "mlx-fastcpu", "scipy-openblas32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", action="append", required=True, help="folder or file")
    parser.add_argument("--chat", action="append", default=[], help="conversations")
    parser.add_argument("--output", required=True, type=Path, help="folder for the run")
    parser.add_argument("options", nargs="*", help="for mlx-gpt speedrun, after --")
    given = parser.parse_args()
    chats = [part for file in given.chat for part in ("--chat", file)]
    arguments = [*given.text, *chats, "--output", str(given.output), *given.options]
    command = [sys.executable, "-m", "mlx_gpt.cli", "speedrun", *arguments]
    began = time.time()
    done = subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seconds = time.time() - began
    folders = {str(Path(each).resolve().parent) for each in (*given.text, *given.chat)}
    folders |= {str(Path(each).parent) for each in (*given.text, *given.chat)}
    folders |= {str(given.output.parent), str(given.output.resolve().parent)}
    DOCS.mkdir(parents=True, exist_ok=True)
    for name in ("report.md", "chat.md"):
        text = (given.output / name).read_text("utf-8")
        (DOCS / name).write_text(without_folders(text, folders), "utf-8")
    (DOCS / "curves.png").write_bytes((given.output / "curves.png").read_bytes())
    (DOCS / "printed.txt").write_text(without_folders(done.stdout, folders), "utf-8")
    shown = " ".join(["mlx-gpt speedrun", *arguments])
    (DOCS / "README.md").write_text(page(without_folders(shown, folders), seconds), "utf-8")
    print(done.stdout)


def without_folders(text: str, folders: set[str]) -> str:
    """Leave of each path what is the same on every machine."""
    for folder in sorted(folders, key=len, reverse=True):
        text = re.sub(re.escape(folder) + "/?", "", text) if folder not in ("", ".", "/") else text
    return text


def page(command: str, seconds: float) -> str:
    """Return what introduces the copies."""
    machine = describe_machine(*PACKAGES)
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    return f"""# From raw text to a chat on a CPU

    {command}

took {seconds / 60:.1f} minutes in all. Written by `benchmarks/gpt_speedrun.py`.

- [The report card](report.md), with [curves](curves.png)
- [The chat](chat.md), as it came out: a model of this size has learned the form of an answer
- [What was printed](printed.txt)

{facts}
"""


if __name__ == "__main__":
    main()
