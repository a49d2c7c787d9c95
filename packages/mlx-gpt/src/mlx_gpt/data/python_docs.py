"""Text for a first run without any data: the documentation inside of this Python's own library.

Modules are parsed, never imported. A docstring makes a document; that of a function or class also
makes a conversation, which asks what it does.
"""

import ast
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
_SHORTEST = 40  # characters of a docstring worth reading
_LONGEST_ANSWER = 400

_QUESTIONS = (
    "What does {name} do?",
    "Explain {name}.",
    "What is {name} for?",
    "Tell me about {name} in Python.",
)


@dataclass(frozen=True)
class Documented:
    """Something with a docstring; `name` is dotted, `signature` as written, '' for a module."""

    name: str
    signature: str
    text: str


def documents(found: Iterable[Documented]) -> list[str]:
    """Return the docstrings as texts, each under its name."""
    return [f"{each.name}{each.signature}\n\n{each.text}" for each in found]


def conversations(found: Iterable[Documented]) -> list[dict]:
    """Return a question and its answer for each function and class."""
    rows = []
    for number, each in enumerate(found):
        answer = each.text.split("\n\n")[0]
        if not each.signature or len(answer) > _LONGEST_ANSWER:
            continue
        question = _QUESTIONS[number % len(_QUESTIONS)].format(name=each.name)
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": " ".join(answer.split())},
        ]
        rows.append({"messages": messages})
    return rows


def documented(library: Path | None = None) -> Iterator[Documented]:
    """Yield what has a docstring in a folder of Python files, by default the standard library."""
    library = library or Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if _SKIPPED.intersection(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # a file of another Python, such as a template
        name = ".".join(part for part in parts if part != "__init__")
        yield from _inside(tree, name, "")


def _inside(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    name: str,
    signature: str,
) -> Iterator[Documented]:
    text = cleandoc(ast.get_docstring(node, clean=False) or "")
    if len(text) >= _SHORTEST:
        yield Documented(name, signature, text)
    for child in node.body:
        below = f"{name}.{getattr(child, 'name', '')}"
        if isinstance(child, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in child.bases)
            yield from _inside(child, below, f"({bases})")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _inside(child, below, f"({ast.unparse(child.args)})")
