"""What the docs say is what the code does."""

import re
import shlex
from pathlib import Path

import pytest

from pipelines.command_line import VERBS
from pipelines.mine_pairs import TAKES, parse
from schemas.describe import BLOCK, rewrite

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", ["README.md", "docs/tables.md", "docs/decontamination.md"])
def test_record_tables_are_the_schemas(page):
    text = (REPOSITORY / page).read_text()
    assert BLOCK.search(text)
    assert rewrite(text) == text, f"run: python -m schemas.describe {page}"


def ovseg_commands(text):
    joined = text.replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^\s*((?:\.venv/bin/)?ovseg .*)$", joined, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_are_understood(page):
    for name, *arguments in ovseg_commands(page.read_text()):
        assert name in VERBS
        if name in TAKES:
            complete = arguments if "--output" in arguments else [*arguments, "--output", "RUN"]
            assert parse([name, *complete])[0].run.output


def test_the_readme_has_commands_to_check():
    assert len(ovseg_commands(README)) >= 5
    assert "make demo" in README
    assert "make test" in README


def test_the_file_tree_names_every_module_and_nothing_else():
    tree = README.split("## The files")[1].split("```")[1]
    named = set(re.findall(r"\w+\.py", tree)) - {"fakes.py", "tiny_clip.py", "tiny_networks.py", "tiny_sam.py"}
    packages = ("schemas", "pipelines", "ovseg_model", "benchmarks")
    sources = {path.name for package in packages for path in (REPOSITORY / package).rglob("*.py")}
    assert named == {name for name in sources if not name.startswith("__")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_docs_list_every_page():
    pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\((\w[\w-]*\.md)\)", (REPOSITORY / "docs/README.md").read_text())) == pages
