"""The code blocks of README, CONTRIBUTING and docs/, and which of them a test runs."""

import re
from typing import NamedTuple

from tests.processes import ROOT

# `<!-- not run by a test: REASON -->` on the line before a block.
_BLOCK = re.compile(
    r"(?:^<!-- not run by a test: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S
)

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    language: str  # "" if the page names none
    text: str
    reason: str | None  # why no test runs it


def blocks(page: str) -> list[Block]:
    """All code blocks of a page, for example docs/data.md."""
    text = (ROOT / page).read_text("utf-8")
    return [Block(match["language"], match["text"], match["reason"]) for match in _BLOCK.finditer(text)]


def commands(text: str) -> list[str]:
    """The lines of a block without comments. A line that ends in a backslash continues in the next one."""
    lines = [line.partition("   #")[0].rstrip() for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def executed_commands(page: str) -> list[str]:
    """The commands of a page that a test runs."""
    return [
        line for block in blocks(page) if block.language == "sh" and not block.reason for line in commands(block.text)
    ]


def executed_samples(page: str) -> list[str]:
    """The Python samples of a page that a test runs."""
    return [block.text for block in blocks(page) if block.language == "python" and not block.reason]
