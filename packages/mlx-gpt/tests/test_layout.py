"""What the package must not do, whichever module would do it."""

import ast
import subprocess
import sys
from pathlib import Path

import mlx_gpt

SOURCES = sorted(Path(mlx_gpt.__file__).parent.rglob("*.py"))
HEAVY = {
    "mlx",
    "numpy",
    "rich",
    "tokenizers",
    "tiktoken",
    "matplotlib",
    "pyarrow",
    "yaml",
    "jinja2",
    "fastapi",
    "pydantic",
    "uvicorn",
    "llguidance",
    "prometheus_client",
}


def imported(tree: ast.AST) -> set[str]:
    """Return the first parts of all module names that a file imports anywhere."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def test_pickles_are_read_where_nanochats_files_are_converted_and_nowhere_else():
    readers = {
        path.parent.name for path in SOURCES if imported(ast.parse(path.read_text())) & {"pickle"}
    }
    assert readers == {"models"}


def test_help_imports_nothing_heavy():
    script = "import sys, mlx_gpt.cli; print(*{each.split('.')[0] for each in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & HEAVY == set()
