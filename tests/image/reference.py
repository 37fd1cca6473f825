"""Files made by the published programs, with what these computed from them."""

from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2].parent / "shared" / "fixtures"


def fixture(name: str, *files: str) -> list[Path]:
    """Their paths; the test is skipped where they are not."""
    paths = [FIXTURES / name / file for file in files]
    if missing := [str(path) for path in paths if not path.exists()]:
        pytest.skip(f"no reference outputs: {missing[0]} is missing")
    return paths
