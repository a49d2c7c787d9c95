"""Check that a release tag fits the repository, and print the package it releases.

    python tools/release.py check mlx-heads-v0.2.0

Or write the addresses that the package's page on the index links to into its pyproject.toml:

    python tools/release.py urls mlx-heads

They follow from `[tool.release] repository` in the root pyproject.toml.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

TAG = re.compile(r"(?P<package>mlx-[a-z0-9-]+)-v(?P<version>\d+\.\d+\.\d+\S*)")


class ReleaseError(ValueError):
    """The repository is not ready for the release; the text says what to change."""


def check_tag(tag: str, root: Path) -> str:
    """Return the package of a tag whose version its pyproject and its changelog have."""
    match = TAG.fullmatch(tag)
    if not match:
        raise ReleaseError(f"a release tag is <package>-v<version>, got {tag!r}")
    package, version = match["package"], match["version"]
    folder = find_package(package, root)
    declared = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]
    if declared != version:
        raise ReleaseError(f"{tag}: packages/{package}/pyproject.toml has version {declared}")
    changelog = (folder / "CHANGELOG.md").read_text()
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.M):
        raise ReleaseError(f"{tag}: packages/{package}/CHANGELOG.md has no dated [{version}]")
    read_repository(root)
    return package


def write_urls(package: str, root: Path) -> str:
    """Append `[project.urls]` to a package's pyproject.toml; return the table."""
    path = find_package(package, root) / "pyproject.toml"
    text, repository = path.read_text(), read_repository(root)
    if "urls" in tomllib.loads(text)["project"]:
        raise ReleaseError(f"packages/{package}/pyproject.toml already has [project.urls]")
    changelog = f"{repository}/blob/main/packages/{package}/CHANGELOG.md"
    table = f'[project.urls]\nSource = "{repository}"\nChangelog = "{changelog}"\n'
    path.write_text(f"{text.rstrip()}\n\n{table}")
    return table


def read_repository(root: Path) -> str:
    """Return the public address of the repository, without a slash at its end."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["release"]
    repository = settings["repository"].rstrip("/")
    if not re.fullmatch(r"https://[\w.-]+/\S+", repository):
        raise ReleaseError(
            "pyproject.toml: set [tool.release] repository to the public address of this "
            f"repository, https://HOST/OWNER/NAME, got {repository!r}"
        )
    return repository


def find_package(package: str, root: Path) -> Path:
    """Return the folder of a package."""
    folder = root / "packages" / package
    if not folder.is_dir():
        raise ReleaseError(f"there is no package {package!r} in packages/")
    return folder


COMMANDS = {"check": check_tag, "urls": write_urls}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("name", help="the tag to check, or the package whose addresses to write")
    arguments = parser.parse_args()
    try:
        print(COMMANDS[arguments.command](arguments.name, Path(__file__).parent.parent).rstrip())
    except ReleaseError as error:
        sys.exit(str(error))
