"""The repository's scripts, each on a small repository of its own."""

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1]
ROOT = TOOLS.parent
REQUIREMENTS = {"app": {"leaf", "middle"}, "middle": {"leaf"}, "leaf": set(), "other": set()}


def tool(name):
    return runpy.run_path(str(TOOLS / f"{name}.py"))


def add_package(root, name, dependencies=(), version="0.1.0"):
    folder = root / "packages" / name
    source = folder / "src" / name.replace("-", "_")
    source.mkdir(parents=True)
    quoted = ", ".join(f'"{each}"' for each in dependencies)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = [{quoted}]\n'
    )
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{version}] - 2026-11-21\n")
    (folder / "LICENSE").write_text("MIT")
    (root / "LICENSE").write_text("MIT")
    set_repository(root, "https://example.org/owner/packages/")
    return source


def set_repository(root, address):
    (root / "pyproject.toml").write_text(f'[tool.release]\nrepository = "{address}"\n')


def run_release(root, *arguments):
    (root / "tools").mkdir(exist_ok=True)
    script = shutil.copy(TOOLS / "release.py", root / "tools")
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["packages/app/src/x.py"], ["app"]),
        (["packages/leaf/README.md"], ["app", "leaf", "middle"]),
        (["packages/middle/a.py", "packages/other/b.py"], ["app", "middle", "other"]),
        (["README.md"], []),
        (["docs/benchmarks/a.md"], ["app", "leaf", "middle", "other"]),
        (["README.md", "noxfile.py"], ["app", "leaf", "middle", "other"]),
        (["packages/removed/a.py"], []),
        ([], []),
    ],
)
def test_a_change_concerns_its_package_and_all_that_depend_on_it(changed, expected):
    assert tool("changed_packages")["packages_to_test"](changed, REQUIREMENTS) == expected


def test_requirements_are_those_of_this_repository_extras_included(tmp_path):
    add_package(tmp_path, "mlx-a", ["numpy>=1.26"])
    add_package(tmp_path, "mlx-b", ["mlx-a[cpu]>=0.1,<0.2", "mlx>=0.30"])
    read = tool("changed_packages")["read_requirements"]
    assert read(tmp_path) == {"mlx-a": set(), "mlx-b": {"mlx-a"}}


def test_equal_copies_pass_and_a_changed_copy_is_named(tmp_path):
    differing = tool("check_vendored")["differing_copies"]
    first, second = add_package(tmp_path, "mlx-a"), add_package(tmp_path, "mlx-b")
    for source in (first, second):
        (source / "_atomic.py").write_text("# Vendored: everywhere\nx = 1\n")
        (source / "_own.py").write_text(f"x = {source.name!r}\n")
    assert differing(tmp_path) == []

    (second / "_atomic.py").write_text("x = 2\n")  # even without its mark
    assert differing(tmp_path) == [
        "the copies of _atomic.py must be byte-identical: "
        "packages/mlx-a/src/mlx_a/_atomic.py, packages/mlx-b/src/mlx_b/_atomic.py"
    ]


@pytest.mark.parametrize("text", ["BSD", None])
def test_a_package_with_another_licence_or_none_is_named(tmp_path, text):
    add_package(tmp_path, "mlx-a")
    licence = tmp_path / "packages/mlx-a/LICENSE"
    if text:
        licence.write_text(text)
    else:
        licence.unlink()
    assert tool("check_vendored")["differing_copies"](tmp_path) == [
        "the copies of LICENSE must be byte-identical: LICENSE, packages/mlx-a/LICENSE"
    ]


def test_a_tag_that_fits_gives_its_package(tmp_path):
    add_package(tmp_path, "mlx-a", version="1.2.0")
    assert tool("release")["check_tag"]("mlx-a-v1.2.0", tmp_path) == "mlx-a"


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("v1.2.0", "a release tag is <package>-v<version>, got 'v1.2.0'"),
        ("mlx-b-v1.2.0", "there is no package 'mlx-b' in packages/"),
        ("mlx-a-v1.3.0", "mlx-a-v1.3.0: packages/mlx-a/pyproject.toml has version 1.2.0"),
    ],
)
def test_a_tag_that_does_not_fit_is_refused(tmp_path, tag, message):
    add_package(tmp_path, "mlx-a", version="1.2.0")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tool("release")["check_tag"](tag, tmp_path)


def test_a_release_without_a_dated_changelog_section_is_refused(tmp_path):
    add_package(tmp_path, "mlx-a")
    (tmp_path / "packages/mlx-a/CHANGELOG.md").write_text("## [Unreleased]\n## [0.1.0]\n")
    with pytest.raises(ValueError, match=r"CHANGELOG\.md has no dated \[0\.1\.0\]"):
        tool("release")["check_tag"]("mlx-a-v0.1.0", tmp_path)


def test_the_addresses_of_a_package_follow_from_the_setting(tmp_path):
    add_package(tmp_path, "mlx-a")
    path = tmp_path / "packages/mlx-a/pyproject.toml"
    path.write_text(path.read_text() + "\n[tool.other]\nx = 1\n\n")
    before = tomllib.loads(path.read_text())
    done = run_release(tmp_path, "urls", "mlx-a")
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text().endswith(f"x = 1\n\n{done.stdout}")
    after = tomllib.loads(path.read_text())
    assert after["project"].pop("urls") == {
        "Source": "https://example.org/owner/packages",
        "Changelog": "https://example.org/owner/packages/blob/main/packages/mlx-a/CHANGELOG.md",
    }
    assert after == before

    again = run_release(tmp_path, "urls", "mlx-a")
    assert again.returncode == 1
    assert again.stderr == "packages/mlx-a/pyproject.toml already has [project.urls]\n"


@pytest.mark.parametrize("command", [("check", "mlx-a-v0.1.0"), ("urls", "mlx-a")])
@pytest.mark.parametrize("address", ["", "github.com/owner/packages"])
def test_a_release_without_a_public_address_names_the_setting(tmp_path, address, command):
    add_package(tmp_path, "mlx-a")
    before = (tmp_path / "packages/mlx-a/pyproject.toml").read_text()
    set_repository(tmp_path, address)
    done = run_release(tmp_path, *command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "pyproject.toml: set [tool.release] repository to the public address of this repository, "
        f"https://HOST/OWNER/NAME, got '{address}'\n"
    )
    assert (tmp_path / "packages/mlx-a/pyproject.toml").read_text() == before


def test_a_checked_tag_prints_its_package(tmp_path):
    add_package(tmp_path, "mlx-a", version="1.2.0")
    done = run_release(tmp_path, "check", "mlx-a-v1.2.0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "mlx-a\n", "")


def test_no_package_names_an_address_of_its_own():
    """They would differ from the one setting that `release.py urls` reads."""
    for path in ROOT.glob("packages/*/pyproject.toml"):
        assert "urls" not in tomllib.loads(path.read_text())["project"], path


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_path_that_a_guide_names_exists(document):
    named = re.findall(
        r"`((?:packages|tools|docs|benchmarks|examples)/[^`\s]*)`", (ROOT / document).read_text()
    )
    assert len(named) > 1
    assert [path for path in named if not (ROOT / path).exists()] == []
