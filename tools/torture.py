"""Kills ranks of a supervised run at random moments, and compares its losses with an undisturbed run.

    python tools/torture.py -c fleet_configs/emoji.yaml --kills 100 cluster.devices_per_node=2 train.steps=300 \\
        checkpoint.every_steps=3

Trains twice under `vilg launch --start`: run.name=calm, and run.name=tortured, in which a random rank gets a SIGKILL at
random moments: while it starts, computes or saves. The exit code is 0 if all lines of metrics.jsonl have bit-identical
losses, gradient norms, learning rates and consumed samples.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from vilg import config

EXACT = ("step", "loss", "loss_t2i", "loss_i2t", "lr", "grad_norm", "consumed_samples")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="the settings of the run")
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="number of kills (100)")
    parser.add_argument(
        "--longest", type=float, default=15.0, metavar="SECONDS", help="longest time between two kills (15)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for moments and ranks (0)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override those of the file")
    options = parser.parse_intermixed_args()
    settings = config.resolve(config.Pretraining, options.config, options.overrides)
    calm, tortured = (settings.run.folder.parent / name for name in ("calm", "tortured"))
    for folder in (calm, tortured):
        if folder.exists():
            sys.exit(f"{folder}: exists already; use another run.dir")

    if launch(options, "calm", 0).wait():
        sys.exit("the undisturbed run fails; try it with `vilg launch --start`")
    began = time.monotonic()
    launcher, random_ = launch(options, "tortured", options.kills), random.Random(options.seed)
    kills = 0
    while launcher.poll() is None:
        if kills < options.kills:
            time.sleep(random_.uniform(0, options.longest))
            if kill_one("run.name=tortured", random_):
                kills += 1
                print(f"kill {kills} at step {last_step(tortured)}", flush=True)
        else:
            time.sleep(0.5)
    same = lines(calm) == lines(tortured) != []
    print(
        json.dumps(
            {
                "kills": kills,
                "seconds": round(time.monotonic() - began),
                "exit_code": launcher.returncode,
                "steps": last_step(tortured),
                "equal_to_the_last_bit": same,
            }
        )
    )
    if kills < options.kills:
        print(f"the run ended after {kills} kills; use more steps, or shorter times between kills", file=sys.stderr)
    return 0 if same and launcher.returncode == 0 and kills == options.kills else 1


def launch(options: argparse.Namespace, name: str, kills: int) -> subprocess.Popen:
    more = [f"run.name={name}", f"cluster.max_restarts={kills + 5}", "cluster.backoff=0"]
    return subprocess.Popen(
        [sys.executable, "-m", "vilg.cli", "launch", "-c", options.config, "--start", *options.overrides, *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_one(word: str, random_: random.Random) -> bool:
    """Send SIGKILL to a random rank with `word` in its command line. Returns whether there was one."""
    ranks = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text(errors="replace").split("\0")
        except OSError:  # the process has exited
            continue
        if word in words and "--log_dir" not in words and "launch" not in words:
            ranks.append(int(folder.name))
    if not ranks:
        return False
    try:
        os.kill(random_.choice(sorted(ranks)), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def lines(run: Path) -> list[list]:
    return [[line[name] for name in EXACT] for line in map(json.loads, read(run))]


def last_step(run: Path) -> int:
    metrics_lines = [line for line in read(run) if line.endswith("}")]
    return json.loads(metrics_lines[-1])["step"] if metrics_lines else 0


def read(run: Path) -> list[str]:
    file = run / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    sys.exit(main())
