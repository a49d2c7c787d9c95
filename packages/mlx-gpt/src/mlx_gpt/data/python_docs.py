"""Training text that is always available: the docstrings of Python's standard library.

Modules are parsed, never imported. Every docstring becomes a document; docstrings of functions and
classes also become conversations that ask what the function or class does.
"""

import ast
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

from mlx_gpt.data.formats import make_conversation

_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
_MIN_CHARS = 40  # of a docstring
_MAX_ANSWER_CHARS = 400

_QUESTIONS = (
    "What does {name} do?",
    "Explain {name}.",
    "What is {name} for?",
    "Tell me about {name} in Python.",
)


@dataclass(frozen=True)
class Docstring:
    """A docstring; `name` is dotted, `signature` as in the source, "" for a module."""

    name: str
    signature: str
    text: str


def make_documents(docstrings: Iterable[Docstring]) -> list[str]:
    """Return the docstrings as texts, each after its name."""
    return [f"{each.name}{each.signature}\n\n{each.text}" for each in docstrings]


def make_conversations(docstrings: Iterable[Docstring]) -> list[dict]:
    """Return a question and its answer for each function and class."""
    conversations = []
    for number, each in enumerate(docstrings):
        answer = each.text.split("\n\n")[0]
        if each.signature and len(answer) <= _MAX_ANSWER_CHARS:
            question = _QUESTIONS[number % len(_QUESTIONS)].format(name=each.name)
            conversations.append(make_conversation(question, " ".join(answer.split())))
    return conversations


def find_docstrings(library: Path | None = None) -> Iterator[Docstring]:
    """Yield the docstrings in a folder of Python files, by default the standard library."""
    library = library or Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if _SKIPPED.intersection(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # not valid Python in this version, such as a template
        name = ".".join(part for part in parts if part != "__init__")
        yield from _walk(tree, name, "")


def _walk(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    name: str,
    signature: str,
) -> Iterator[Docstring]:
    text = cleandoc(ast.get_docstring(node, clean=False) or "")
    if len(text) >= _MIN_CHARS:
        yield Docstring(name, signature, text)
    for child in node.body:
        child_name = f"{name}.{getattr(child, 'name', '')}"
        if isinstance(child, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in child.bases)
            yield from _walk(child, child_name, f"({bases})")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, child_name, f"({ast.unparse(child.args)})")
