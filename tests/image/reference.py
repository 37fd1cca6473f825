"""Files written by the published programs with random weights, and what these programs computed.

`fixtures/` beside this file is small; tools/make_reference_outputs.py made it. Larger ones may lie in a folder next to
the repository.
"""

from pathlib import Path

import pytest

OWN = Path(__file__).parent / "fixtures"
LARGER = Path(__file__).parents[3] / "shared" / "fixtures"

VQ = pytest.mark.parametrize("folder", [OWN / "vqgan_vq", LARGER / "vqgan_vq_f8"], ids=["small", "larger"])
GUMBEL = pytest.mark.parametrize("folder", [OWN / "vqgan_gumbel", LARGER / "vqgan_gumbel_f8"], ids=["small", "larger"])
OPENAI = pytest.mark.parametrize("folder", [OWN / "dvae_openai", LARGER / "dvae_openai"], ids=["small", "larger"])


def fixture(folder: Path, *files: str) -> list[Path]:
    """The paths of the files. The test is skipped if the folder of larger ones is missing."""
    if folder.is_relative_to(LARGER) and not LARGER.exists():
        pytest.skip(f"{LARGER}: no such folder; the small reference outputs are tested")
    return [folder / file for file in files]
