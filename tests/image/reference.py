"""Files written by the published programs, and the outputs of these programs."""

from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2].parent / "shared" / "fixtures"


def fixture(name: str, *files: str) -> list[Path]:
    """The paths of the files. The test is skipped if they are missing."""
    paths = [FIXTURES / name / file for file in files]
    if missing := [str(path) for path in paths if not path.exists()]:
        pytest.skip(f"no reference outputs: {missing[0]} is missing")
    return paths
