"""Sessions that check, build and test the packages.

nox                          every check and test of a pull request
nox -s "tests(mlx-heads)"    test one package
nox -t mlx-heads             tests, minimums and dist of one package
nox --list                   every session and what it does
"""

import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2026.4.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
# Resolve siblings as a user would: by the versions they declare, not by [tool.uv.sources].
os.environ["UV_NO_SOURCES"] = "1"
# Tests start many processes: each would compile again, for seconds, all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent
PROJECTS = {
    path.parent.name: nox.project.load_toml(path)["project"]
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
ALL_PATHS = [f"./packages/{name}" for name in PROJECTS]
# Whose fixtures are made by code that is not on a package index.
NEED_CLONES = ("gpt", "muon")
# Extras of mlx-kaggle, and the tests that need them.
EXTRAS = {
    "boosted": ["test_members.py"],
    "dask": ["test_workers.py"],
    "kaggle": ["test_kaggle.py"],
    "mlflow,trackio,wandb": ["test_tracking.py"],
    "onnx": ["test_export.py", "test_export_heads.py"],
    "tune": ["test_tune.py"],
}
# What else the tests of a package need: an extra of it.
TESTED_EXTRA = {"mlx-gpt": "serve"}
# The driver for a study on PostgreSQL, tested where its server is installed.
BESIDE = {"tune": ["psycopg[binary]>=3.2"]}
each_package = nox.parametrize(
    "package", [nox.param(name, id=name, tags=[name]) for name in PROJECTS]
)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, workflows, and that vendored files and licences are equal."""
    session.install("--group", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("python", "tools/check_vendored.py")
    workflows = [str(each) for each in sorted(ROOT.glob(".github/workflows/*.yml"))]
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of all packages with everything installed."""
    # Editable: a copy beside the checkout would be two classes of one name to pyright.
    editable = [word for path in map(with_extra, PROJECTS) for word in ("--editable", path)]
    session.install("--group", "lint", "--group", "test", *editable)
    session.run("pyright", "--pythonpath", f"{session.bin}/python")


@nox.session
def imports(session: nox.Session) -> None:
    """Check who imports whom, and that each package declares what it imports."""
    session.install("--group", "lint", "--group", "test", *ALL_PATHS)
    session.run("lint-imports", "--no-cache")
    for name in PROJECTS:
        session.chdir(ROOT / "packages" / name)
        # The OpenBLAS wheel is data for mlx-fastcpu: found on disk, never imported. The Kaggle
        # client imports six, and MLflow's store alembic.
        session.run("deptry", "src", "--per-rule-ignores", "DEP002=scipy-openblas32|six|alembic",
                    "--package-module-name-map", "mlflow-skinny=mlflow")  # fmt: skip


@nox.session
def tools(session: nox.Session) -> None:
    """Test the scripts in tools/."""
    session.install("click>=8.5", "pytest>=9.0")
    session.run("pytest", "--noconftest", "tools/tests", *session.posargs)


@nox.session
@each_package
def tests(session: nox.Session, package: str) -> None:
    """Test one package where only its declared dependencies are installed."""
    session.install("--group", "test", *paths_of(package), with_extra(package))
    precompile_header(session)
    # The threads of OpenBLAS spin while they wait, on a core that another process could use.
    env = {} if package == "mlx-fastcpu" else {"OPENBLAS_NUM_THREADS": "1"}
    session.run("pytest", "-m", "not slow", f"packages/{package}", *session.posargs, env=env)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Send mlx-gpt serve what its OpenAPI schema allows, and what it does not."""
    session.install("--group", "test", "schemathesis", *paths_of("mlx-gpt"), with_extra("mlx-gpt"))
    test = "packages/mlx-gpt/tests/test_serve_fuzz.py"
    session.run("pytest", test, *session.posargs, env={"OPENBLAS_NUM_THREADS": "1"})


@nox.session
@each_package
def install(session: nox.Session, package: str) -> None:
    """Install one package with pip by the line of its README, in an otherwise empty environment."""
    readme = (ROOT / "packages" / package / "README.md").read_text()
    if not (block := re.search(r"^```sh\n(pip install [^`]+)```$", readme, re.MULTILINE)):
        session.error(f"packages/{package}/README.md has no ```sh block that begins pip install")
    session.install("pip")
    # PIP_COMPILE=0: compile what is imported below, and not thousands of modules more.
    env = {"PIP_COMPILE": "0"}
    session.run("sh", "-c", block[1], external=True, silent=True, env=env)
    session.run("python", "-I", "-c", f"import {package.replace('-', '_')}")
    for command in PROJECTS[package].get("scripts", {}):
        session.run(command, "--help", silent=True)


@nox.session(name="docs-examples")
def docs_examples(session: nox.Session) -> None:
    """Run every example, and every Python block of every README, with all packages installed."""
    session.install("--group", "test", *map(with_extra, PROJECTS))
    readmes = [path / "README.md" for path in (ROOT, *map(Path, ALL_PATHS))]
    session.run("pytest", "examples", *map(str, readmes), *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into build/site; reading it needs no server and no network."""
    session.install("--group", "docs", *ALL_PATHS)
    session.run("python", "tools/make_site.py")
    session.run("zensical", "build", "--strict", "--clean")
    for page in (ROOT / "build/site").rglob("*.html"):
        if loaded := re.search(r"<(?:script|img|link) [^>]*https?://[^ >]*", page.read_text()):
            session.error(f"{page} loads something from elsewhere: {loaded[0]}")


@nox.session
def build(session: nox.Session) -> None:
    """Build every package and check the metadata and contents of its wheel."""
    session.install("uv>=0.8", "twine>=6.1")
    with tempfile.TemporaryDirectory() as folder:
        wheels = build_distributions(session, list(PROJECTS), Path(folder))
        for name, wheel in wheels.items():
            check_wheel(session, name, wheel)


@nox.session
def smoke(session: nox.Session) -> None:
    """Install mlx-kaggle's wheels and go from a CSV to a submission, away from the sources."""
    session.install("uv>=0.8")
    with tempfile.TemporaryDirectory() as folder:
        wheels = build_distributions(session, with_siblings("mlx-kaggle"), Path(folder, "dist"))
        backend = ["mlx[cpu]"] if sys.platform == "linux" else []
        session.install(*map(str, wheels.values()), *backend)
        session.chdir(folder)
        Path("train.csv").write_text(rows_of(range(20), target=True))
        Path("test.csv").write_text(rows_of(range(20, 28), target=False))
        session.run("mlx-kaggle", "--help", silent=True)
        train = ("--train", "train.csv", "--target", "y", "--output", "run")
        session.run("mlx-kaggle", "train", *train, "--set", "training.epochs=1")
        predict = ("--run", "run", "--test", "test.csv", "--output", "submission.csv")
        session.run("mlx-kaggle", "predict", *predict)
        if (rows := len(Path("submission.csv").read_text().splitlines()) - 1) != 8:
            session.error(f"submission.csv must have the 8 rows of test.csv, has {rows}")
        session.chdir(ROOT)


@nox.session(venv_backend="uv", default=False)
@each_package
def minimums(session: nox.Session, package: str) -> None:
    """Test one package with the oldest dependencies it allows."""
    # --no-config: the root's constraints would pin the versions this session is to lower.
    lowest = ("--no-config", "--resolution=lowest-direct")
    session.install(*lowest, "--group", "test", *paths_of(package), with_extra(package))
    session.run("pytest", f"packages/{package}", *session.posargs)


@nox.session(default=False)
@each_package
def dist(session: nox.Session, package: str) -> None:
    """Build one package into dist/, and test the wheel away from the sources."""
    session.install("uv>=0.8", "twine>=6.1")
    out = ROOT / "dist" / package
    wheels = build_distributions(session, with_siblings(package), out)
    check_wheel(session, package, wheels[package])
    extra = f"[{TESTED_EXTRA[package]}]" if package in TESTED_EXTRA else ""
    session.install("--group", "test", *map(str, wheels.values()), f"{wheels[package]}{extra}")
    session.run("pytest", "-p", "no:cacheprovider", f"packages/{package}/tests", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Test the applications by runs of half a minute or more, which the session tests omits."""
    packages = ("mlx-kaggle", "mlx-gpt")
    wanted = [path for each in packages for path in (*paths_of(each), with_extra(each))]
    session.install("--group", "test", *wanted)
    env = {"OPENBLAS_NUM_THREADS": "1"}
    folders = [f"packages/{each}" for each in packages]
    session.run("pytest", "-m", "slow", *folders, *session.posargs, env=env)


@nox.session
def page(session: nox.Session) -> None:
    """Test the chat page of mlx-gpt in a headless Chromium; without one, the tests skip."""
    wanted = [*paths_of("mlx-gpt"), with_extra("mlx-gpt")]
    session.install("--group", "test", "--group", "browser", *wanted)
    env = {"OPENBLAS_NUM_THREADS": "1"}
    session.run("pytest", "-rs", "packages/mlx-gpt/tests/browser", *session.posargs, env=env)


@nox.session(default=False)
@nox.parametrize("extra", [nox.param(name, id=name) for name in EXTRAS])
def extras(session: nox.Session, extra: str) -> None:
    """Test what an extra of mlx-kaggle is for; boosted is a gigabyte of wheels."""
    wanted = [f"./packages/mlx-kaggle[{extra}]", *BESIDE.get(extra, [])]
    session.install("--group", "test", *wanted, *paths_of("mlx-kaggle"))
    tests = [f"packages/mlx-kaggle/tests/{name}" for name in EXTRAS[extra]]
    session.run("pytest", *tests, *session.posargs, env={"OPENBLAS_NUM_THREADS": "1"})


@nox.session(default=False)
def parity(session: nox.Session) -> None:
    """Compare the encoders with transformers; write docs/benchmarks/encoders-parity.md."""
    session.install("--group", "fixtures", "--group", "test", "mlx-embeddings", *ALL_PATHS)
    path = {"PYTHONPATH": str(ROOT / "tools")}
    session.run("python", "benchmarks/encoders_parity.py", *session.posargs, env=path)


@nox.session(name="lora-parity", default=False)
def lora_parity(session: nox.Session) -> None:
    """Compare adapters with PEFT and mlx-lm; write docs/benchmarks/lora-parity.md."""
    session.install("--group", "fixtures", "--group", "test", "mlx-lm", *ALL_PATHS)
    session.run("python", "benchmarks/lora_parity.py", *session.posargs)


@nox.session(default=False)
def fixtures(session: nox.Session) -> None:
    """Make the parity fixtures again: all that need no clones, or `-- NAME ARGUMENTS`."""
    session.install("--group", "fixtures", "--group", "test", *ALL_PATHS)
    names = sorted(path.stem.split("_")[-1] for path in ROOT.glob("tools/make_fixtures_*.py"))
    chosen, *arguments = session.posargs or [None]
    for name in [chosen] if chosen else [each for each in names if each not in NEED_CLONES]:
        session.run("python", f"tools/make_fixtures_{name}.py", *arguments)


def precompile_header(session: nox.Session) -> None:
    """Precompile the header of the kernels of `mx.compile`: each then takes 0.2 s, and not 1.2 s.

    GCC finds the result beside the header, and ignores it for any other flags than MLX's.
    """
    headers = [*Path(session.virtualenv.location).rglob("mlx/backend/cpu/compiled_preamble.h")]
    if sys.platform == "linux" and shutil.which("g++") and headers:
        flags = ("-std=c++17", "-O3", "-Wall", "-fPIC", "-I", str(headers[0].parents[3]))
        command = ("g++", *flags, "-x", "c++-header", str(headers[0]))
        session.run(*command, external=True, silent=True)


def with_siblings(package: str) -> list[str]:
    """Return the package, preceded by every package of this repository that it depends on."""
    names = [re.match(r"[\w.-]+", line)[0] for line in PROJECTS[package].get("dependencies", [])]
    found = [each for name in names if name in PROJECTS for each in with_siblings(name)]
    return [*dict.fromkeys([*found, package])]


def paths_of(package: str) -> list[str]:
    """Return what to install for one package: its folder and those of its siblings."""
    return [f"./packages/{name}" for name in with_siblings(package)]


def with_extra(package: str) -> str:
    """Return what to install for one package with what its tests need."""
    extra = f"[{TESTED_EXTRA[package]}]" if package in TESTED_EXTRA else ""
    return f"./packages/{package}{extra}"


def build_distributions(session: nox.Session, packages: list[str], out: Path) -> dict[str, Path]:
    """Build and check each package's two files in an emptied folder; return the wheels."""
    shutil.rmtree(out, ignore_errors=True)  # a wheel of an older version must not win
    wheels = {}
    for name in packages:
        session.run("uv", "build", "--quiet", "--out-dir", str(out / name), f"packages/{name}")
        (wheels[name],) = (out / name).glob("*.whl")
    return wheels


def check_wheel(session: nox.Session, package: str, wheel: Path) -> None:
    """Check a wheel and the sdist beside it: metadata, licence and type marker."""
    files = [str(each) for each in wheel.parent.iterdir() if each.suffix in (".whl", ".gz")]
    session.run("twine", "check", "--strict", *files)
    held = zipfile.ZipFile(wheel).namelist()
    for wanted in ("/licenses/LICENSE", f"{package.replace('-', '_')}/py.typed"):
        if not any(name.endswith(wanted) for name in held):
            session.error(f"{wheel.name} lacks {wanted}")


def rows_of(ids: range, target: bool) -> str:
    """Return a small CSV: an id, a number, a category, and where wanted a binary target."""
    lines = ["id,amount,colour" + (",y" if target else "")]
    for i in ids:
        line = f"{i},{i / 4},{('red', 'blue')[i % 2]}"
        lines.append(f"{line},{i % 2}" if target else line)
    return "\n".join(lines) + "\n"
