"""The pages of the documentation site, made from a small repository."""

import re
import runpy
from pathlib import Path

import click
import pytest

SITE = runpy.run_path(str(Path(__file__).parents[1] / "make_site.py"))
ADDRESS = "https://example.org/owner/packages"


@pytest.fixture
def root(tmp_path):
    """A repository with one package, one example and one plot."""
    for name, text in {
        "README.md": "# All\n\n[a](packages/mlx-a), [run](examples/run.py#top), [x](https://x.org)",
        "CONTRIBUTING.md": "# Contributing",
        "packages/mlx-a/README.md": "[code](src/mlx_a/b.py) ![plot](../../docs/plot.png) [top](#a)",
        "packages/mlx-a/CHANGELOG.md": "# Changelog",
        "packages/mlx-a/pyproject.toml": "[project]\nname = 'mlx-a'\n",
        "packages/mlx-a/src/mlx_a/__init__.py": '''"""Does a."""
from typing import TYPE_CHECKING
from mlx_a.b import C, run
if TYPE_CHECKING:
    from mlx_a.d import late
__all__ = ["C", "late", "run"]
''',
        "packages/mlx-a/src/mlx_a/b.py": "",
        "examples/README.md": "[run.py](run.py)",
        "examples/run.py": '"""Run it.\n\n    python run.py\n"""\n\nprint("""done""")\n',
        "examples/test_examples.py": "",
        "docs/plot.png": "",
        "pyproject.toml": "[tool.release]\nrepository = ''\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    write_navigation(tmp_path, ["README.md", "CONTRIBUTING.md", "packages/mlx-a/CHANGELOG.md"])
    return tmp_path


def write_navigation(root, pages):
    more = ["packages/mlx-a/README.md", "packages/mlx-a/api.md", "examples/README.md"]
    nav = [*pages, *more, "examples/run.md"]
    (root / "zensical.toml").write_text(f"[project]\nnav = {nav}\n")


def make(root):
    SITE["main"](root, root / "out")
    return {
        path.relative_to(root / "out").as_posix(): path.read_text()
        for path in (root / "out").rglob("*")
        if path.is_file()
    }


def test_links_lead_to_pages_and_those_without_a_page_are_text(root):
    pages = make(root)
    assert pages["README.md"].endswith(
        "[a](packages/mlx-a/README.md), [run](examples/run.md#top), [x](https://x.org)"
    )
    assert pages["packages/mlx-a/README.md"] == "code ![plot](../../docs/plot.png) [top](#a)"
    assert "docs/plot.png" in pages


def test_a_known_address_is_where_links_to_code_lead(root):
    (root / "pyproject.toml").write_text(f"[tool.release]\nrepository = '{ADDRESS}'\n")
    link = f"[code]({ADDRESS}/blob/main/packages/mlx-a/src/mlx_a/b.py)"
    assert make(root)["packages/mlx-a/README.md"].startswith(link)


def test_a_link_that_leads_nowhere_is_an_error(root):
    (root / "README.md").write_text("[b](packages/mlx-b)")
    with pytest.raises(ValueError, match=r"^README.md: the link to packages/mlx-b leads nowhere$"):
        make(root)


def test_code_has_no_links(root):
    text = "`[a](b)`\n\n```python\nrun[0](1)\n```\n"
    (root / "README.md").write_text(text)
    assert make(root)["README.md"] == text


def test_the_reference_names_what_a_package_exports_where_it_is_defined(root):
    page = make(root)["packages/mlx-a/api.md"]
    assert page == (
        "# API of mlx_a\n\nDoes a.\n\n::: mlx_a.b.C\n\n::: mlx_a.d.late\n\n::: mlx_a.b.run\n"
    )


def test_the_reference_of_a_lazy_package_follows_its_stub(root):
    package = root / "packages/mlx-a/src/mlx_a"
    (package / "__init__.py").write_text('"""Does a."""\nimport lazy_loader\n')
    (package / "__init__.pyi").write_text("from .b import run as run\nfrom .b import C as C\n")
    page = make(root)["packages/mlx-a/api.md"]
    assert page == "# API of mlx_a\n\nDoes a.\n\n::: mlx_a.b.C\n\n::: mlx_a.b.run\n"


def test_an_example_is_its_docstring_and_its_code(root):
    page = make(root)["examples/run.md"]
    assert page == (
        '# run.py\n\nRun it.\n\n    python run.py\n\n```python\nprint("""done""")\n```\n'
    )


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        (
            ["README.md", "packages/mlx-a/CHANGELOG.md"],
            "zensical.toml: nav lists CONTRIBUTING.md 0 times, and the page exists",
        ),
        (
            ["README.md", "CONTRIBUTING.md", "packages/mlx-a/CHANGELOG.md", "z.md"],
            "zensical.toml: nav lists z.md 1 times, and the page does not exist",
        ),
    ],
)
def test_the_navigation_lists_every_page_and_no_other(root, pages, message):
    write_navigation(root, pages)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(root)


def test_the_help_of_subcommands_stands_below_that_of_their_group():
    @click.group()
    def group():
        """Do things."""

    @group.command()
    @click.option("--speed", default=2, show_default=True)
    def walk(speed):
        """Walk."""

    lines = "\n".join(SITE["command_lines"]("do", group))
    assert lines.startswith("# do\n\n```text\nUsage: do [OPTIONS] COMMAND [ARGS]...")
    assert "## do walk\n\n```text\nUsage: do walk [OPTIONS]\n\n  Walk." in lines
    assert "[default: 2]" in lines
