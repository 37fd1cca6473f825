"""Whether a container is of use: exit code 0, or 1 and why not.

VILG_RUN    the folder of the run; it must have taken a step in the last VILG_STALL seconds (1800), counted from the
            container's start at the earliest. Unset: vilg's operator must load.
"""

import os
import sys
import time
from pathlib import Path


def age_of_container() -> float:
    """Seconds since its first process was started."""
    started = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - started


def age_of_last_step(run: Path) -> float:
    """Seconds since the last step, or since the container started."""
    metrics = run / "metrics.jsonl"
    return min([age_of_container()] + ([time.time() - metrics.stat().st_mtime] if metrics.exists() else []))


def main() -> str | None:
    """What is wrong; None if nothing is."""
    if run := os.environ.get("VILG_RUN"):
        age, limit = age_of_last_step(Path(run)), float(os.environ.get("VILG_STALL", 1800))
        return f"{run}: no step for {age:.0f} seconds" if age > limit else None
    from vilg.attention import operator

    return operator.load()


if __name__ == "__main__":
    sys.exit(main())
