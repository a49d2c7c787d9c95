"""Write the pages of the documentation site into build/pages, which `zensical build` reads.

    python tools/make_site.py && zensical build --strict

Pages keep the paths that they have in the repository, so their links hold in both places. Written
here are the API reference of each leaf (what its `__all__` exports), the help of each command and
a page for each example. Every page must be in the navigation of zensical.toml.
"""

import ast
import posixpath
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
APPLICATIONS = ("mlx-gpt", "mlx-kaggle")
COPIED = ("README.md", "CONTRIBUTING.md", "packages/*/README.md", "packages/*/CHANGELOG.md")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


class SiteError(ValueError):
    """A link or the navigation is wrong; the text says which."""


def main(root: Path, out: Path) -> None:
    """Write all pages and the files that they show."""
    shutil.rmtree(out, ignore_errors=True)
    repository = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["release"]
    pages = {path: (root / path).read_text() for path in copied_pages(root)}
    pages |= dict(example_pages(root))
    pages = {path: with_links(path, pages, root, repository["repository"]) for path in pages}
    for name in sorted(path.name for path in (root / "packages").iterdir() if path.is_dir()):
        pages |= dict(package_pages(root, name))
    check_navigation(pages, root)
    for path, text in pages.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(text)
    for path in root.glob("docs/**/*.*"):
        if path.suffix in (".png", ".svg", ".txt", ".css", ".js"):
            target = out / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def copied_pages(root: Path) -> list[str]:
    """Return the pages that are files of the repository."""
    found = [path for pattern in (*COPIED, "docs/**/*.md") for path in root.glob(pattern)]
    return [path.relative_to(root).as_posix() for path in [*found, root / "examples/README.md"]]


def example_pages(root: Path) -> Iterator[tuple[str, str]]:
    """Yield a page for each example: its docstring, then its code."""
    for path in sorted(root.glob("examples/*.py")):
        if path.name.startswith("test_"):
            continue
        text = path.read_text()
        docstring = (ast.get_docstring(ast.parse(text), clean=False) or "").strip()
        code = text.split('"""', 2)[2].strip()
        page = f"# {path.name}\n\n{docstring}\n\n```python\n{code}\n```\n"
        yield path.relative_to(root).with_suffix(".md").as_posix(), page


def with_links(page: str, pages: dict[str, str], root: Path, repository: str) -> str:
    """Return a page whose links lead to pages of the site.

    A link to another file leads to the repository's public address, or becomes text without one.
    """

    def rewrite(match: re.Match[str]) -> str:
        is_image, text, link = match.groups()
        path, _, anchor = link.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        if not (root / path).exists():
            raise SiteError(f"{page}: the link to {link} leads nowhere")
        for target in (path, f"{path}/README.md", path.removesuffix(".py") + ".md"):
            if target in pages:
                relative = posixpath.relpath(target, posixpath.dirname(page) or ".")
                return f"[{text}]({relative}{'#' if anchor else ''}{anchor})"
        if is_image or (path.startswith("docs/") and (root / path).is_file()):
            return match[0]
        return f"[{text}]({repository}/blob/main/{path})" if repository else text

    parts = CODE.split(pages[page])
    parts[::2] = [LINK.sub(rewrite, text) for text in parts[::2]]
    return "".join(parts)


def package_pages(root: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield the API reference of a leaf, and the help of a package's command."""
    folder = root / "packages" / name
    if name not in APPLICATIONS:
        yield f"packages/{name}/api.md", api_page(folder / "src" / name.replace("-", "_"))
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    for command, entry in project.get("scripts", {}).items():
        group = import_module(entry.partition(":")[0]).cli
        yield f"packages/{name}/commands.md", "\n".join(command_lines(command, group))


def api_page(package: Path) -> str:
    """Return a page for mkdocstrings with each name that a package exports, where it is defined."""
    lines = [f"# API of {package.name}", ast.get_docstring(parsed(package / "__init__.py")) or ""]
    return "\n\n".join([*lines, *(f"::: {path}" for path in exports(package))]) + "\n"


def exports(package: Path) -> list[str]:
    """Return the dotted paths of what a package exports: constants, classes, functions.

    The names are those of `__all__`, or, in a package that imports lazily, of `__init__.pyi`.
    """
    stub = package / "__init__.pyi"
    tree = parsed(stub if stub.exists() else package / "__init__.py")
    homes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = f"{package.name}.{node.module}" if node.level else node.module
            homes |= {alias.name: f"{module}.{alias.name}" for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            homes = {name: homes[name] for name in ast.literal_eval(node.value)}
    names = sorted(homes, key=lambda name: (not name.isupper(), name[0].islower(), name))
    return [homes[name] for name in names]


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text())


def command_lines(name: str, command: click.Command, depth: int = 1) -> Iterator[str]:
    """Yield the help of a command and, below it, of its subcommands."""
    context = click.Context(command, info_name=name, terminal_width=80, max_content_width=80)
    yield from (f"{'#' * depth} {name}\n", "```text", command.get_help(context), "```", "")
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            child = command.get_command(context, each)
            assert child is not None
            yield from command_lines(f"{name} {each}", child, depth + 1)


def check_navigation(pages: dict[str, str], root: Path) -> None:
    """Raise unless the navigation lists every page once, and nothing else."""
    listed = list(leaves(tomllib.loads((root / "zensical.toml").read_text())["project"]["nav"]))
    for path in sorted({*pages, *listed}):
        if path not in pages or listed.count(path) != 1:
            raise SiteError(
                f"zensical.toml: nav lists {path} {listed.count(path)} times, and the page "
                f"{'exists' if path in pages else 'does not exist'}"
            )


def leaves(tree: object) -> Iterator[str]:
    """Yield the pages of a navigation, top to bottom."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, list | dict):
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(each)


if __name__ == "__main__":
    try:
        main(ROOT, ROOT / "build/pages")
    except SiteError as error:
        sys.exit(str(error))
