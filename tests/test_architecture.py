"""What the house promises of itself: imports point one way, nothing heavy loads early, names are ours alone."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGES = {"schemas": set(), "ovseg_model": {"schemas"}, "pipelines": {"schemas", "ovseg_model"}}
SOURCES = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_point_one_way(path):
    package = path.relative_to(REPOSITORY).parts[0]
    ours = set(imported_packages(path)) & set(PACKAGES)
    assert ours <= PACKAGES[package] | {package}


def modules_after(statement):
    code = f"import sys; {statement}; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import schemas, pipelines, ovseg_model",
        "from pipelines.command_line import main; main(['--help'])",
        "import pipelines.plain, pipelines.mine_pairs",
    ],
)
def test_nothing_heavy_is_imported_early(statement):
    assert modules_after(statement) & {"torch", "apache_beam", "open_clip", "nltk", "skimage"} == set()


def test_only_transforms_and_handlers_need_beam():
    users = [path.name for path in SOURCES if "apache_beam" in set(imported_packages(path))]
    assert sorted(set(users)) == ["engines.py", "mine_pairs.py", "model_handlers.py", "transforms.py"]


def test_the_folder_names_are_this_distributions_alone():
    owners = metadata.packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, ["ovseg-mining"])) == {"ovseg-mining"}


def test_every_package_is_listed_for_installation():
    import tomllib

    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [".".join(path.parent.relative_to(REPOSITORY).parts) for path in SOURCES if path.name == "__init__.py"]
    assert sorted(listed) == sorted(found)


def test_no_filler_names():
    stems = {path.stem for path in SOURCES}
    assert stems & {"utils", "util", "common", "misc", "helpers"} == set()


def test_the_switching_runner_is_never_named():
    """engine.md B1: DirectRunner is another engine from one network to the next."""
    assert [path for path in SOURCES if "DirectRunner" in path.read_text()] == []


def test_the_lock_carries_hashes_and_no_index_address():
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in lock
    assert lock.count("--hash=sha256:") > 500
