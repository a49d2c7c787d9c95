"""`python -m mlx_fastcpu info | run`: show what `activate` does here, or run a script with it."""

import argparse
import json
import runpy
import sys
from pathlib import Path

from mlx_fastcpu.activation import activate, info


def main(arguments: list[str]) -> None:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(prog="python -m mlx_fastcpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    info_parser = commands.add_parser("info", help="activate, and show the result")
    info_parser.add_argument("--json", action="store_true", help="print JSON")
    run_parser = commands.add_parser("run", help="run a Python script with a fast MLX")
    run_parser.add_argument("--native", action="store_true",
                            help="compile MLX's kernels for this CPU's vector units")  # fmt: skip
    run_parser.add_argument("--mlx-layers", action="store_true",
                            help="keep MLX's own layers (GELU, ...)")  # fmt: skip
    run_parser.add_argument("script", help="path of the script")
    run_parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed to the script")
    options = parser.parse_args(arguments)
    if options.command == "info":
        show(info(), as_json=options.json)
    else:
        flags = "native" if options.native else None
        run(options.script, options.arguments, flags, not options.mlx_layers)


def show(values: dict[str, object], as_json: bool) -> None:
    """Print the values of `info`, one per line, or as JSON."""
    if as_json:
        print(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        shown = "-" if value is None else f"{value:.1f}" if isinstance(value, float) else value
        print(f"{name:>14}  {shown}")


def run(script: str, arguments: list[str], compiler_flags: str | None, layers: bool) -> None:
    """Run a script as `python script arguments...` would, after activation."""
    if not Path(script).is_file():
        sys.exit(f"python -m mlx_fastcpu run: no such file: {script}")
    status = activate(compiler_flags=compiler_flags)
    if not status.active:
        print(f"mlx_fastcpu is {status}", file=sys.stderr)
    elif layers:
        from mlx_fastcpu.patching import patch_everywhere

        patch_everywhere()
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
