"""Names and phrases that docs/glossary.md retires are not used."""

import re
import subprocess

import pytest

from tests.processes import ROOT

# Files that have to mention old names.
EXEMPT = {
    "CHANGELOG.md",
    "docs/glossary.md",
    "tests/config/test_renamed.py",
    "tests/test_glossary.py",
    "vilg/config/renamed.py",
}
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".cc", ".h", ".cu", ".cuh", ".css", ".Dockerfile", "", ".txt"}


def table(heading: str) -> list[list[str]]:
    """The cells of all rows of the tables below a heading of the glossary."""
    page = (ROOT / "docs/glossary.md").read_text("utf-8")
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows if not set(row[0].strip()) <= {"-"}]


def retired() -> list[str]:
    names = [re.findall(r"`([^`]+)`", row[0]) for row in table("Retired names")]
    phrases = [re.findall(r'"([^"]+)"', row[0]) for row in table("Retired phrases")]
    return [name for row in [*names, *phrases] for name in row]


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """All tracked text files, and files that git would track, by name."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [path for path in done.stdout.splitlines() if path not in EXEMPT and (ROOT / path).is_file()]
    return {path: (ROOT / path).read_text("utf-8") for path in paths if (ROOT / path).suffix in TEXT}


def uses(name: str, text: str) -> list[str]:
    """The lines of `text` that contain `name` as a whole word."""
    pattern = re.compile(rf"(?<![\w-]){re.escape(name)}(?!\w)")
    return [line.strip() for line in text.splitlines() if pattern.search(line)]


def test_there_are_many_retired_names():
    assert len(retired()) > 100


@pytest.mark.parametrize("text", ["x = Rivals(1)", "from vilg.training.rivals import Rivals, y", "the Rivals."])
def test_a_use_is_found(text):
    assert uses("Rivals", text)


def test_a_part_of_another_word_is_no_use():
    assert not uses("Kept", "KeptAlive _Kept unKept")


@pytest.mark.parametrize("name", retired())
def test_a_retired_name_does_not_come_back(files, name):
    found = [f"{path}: {line}" for path, text in files.items() for line in uses(name, text)]
    assert not found, f"docs/glossary.md has the name to use instead of {name}"
