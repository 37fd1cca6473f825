"""`make demo`: from nothing to pictures and captions, by a model trained while you watch, on two processes.

    python tools/demo.py [--minutes 15] [--began SECONDS_SINCE_1970]

Everything goes to runs/demo; the end is runs/demo/report.html and report.json. The transformer takes as many of its steps
as fit in the minutes.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml

# No import of vilg: it sets the number of threads of this process, which every process started here would inherit.
FOLDER = Path("runs/demo")
DATA, EXPORT = FOLDER / "openmoji", FOLDER / "export"
DVAE, PRETRAINING = Path("fleet_configs/emoji_dvae.yaml"), Path("fleet_configs/emoji.yaml")
DVAE_STEPS = 1800  # as many as take three minutes; its settings are for ten
STEPS = yaml.safe_load(PRETRAINING.read_text("utf-8"))["train"]["steps"]  # of the transformer
PROBE = 24  # steps that show how long one takes
AFTERWARDS = 100.0  # seconds that are needed besides the steps: two starts, measuring, drawing, the export, the report
SHARDS = [f"data.shards=[{DATA}/train-*.tar]", f"data.heldout=[{DATA}/heldout-*.tar]", f"run.dir={FOLDER}"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=15.0, help="that all may take (15)")
    options.add_argument("--began", type=float, default=time.time(), help="when the installation began")
    options = options.parse_args()
    began = options.began
    if FOLDER.exists():
        print(f"{FOLDER} is there from an earlier demo and is replaced")
        shutil.rmtree(FOLDER)

    say("1/8  the data: 1,914 emoji with their Chinese names, drawn by OpenMoji")
    vilg("data", "openmoji", "--out", str(DATA))
    say("2/8  a WordPiece vocabulary from the captions")
    vilg("vocab", "--shards", f"{DATA}/train-*.tar", "--size", "4000", "--out", str(DATA / "vocab.txt"))
    say("3/8  the image tokenizer, a dVAE: 64 x 64 pixels become 8 x 8 codes")
    fleetrun(
        "train_image_tokenizer",
        DVAE,
        "run.name=dvae",
        f"train.steps={DVAE_STEPS}",
        f"train.eval_every={DVAE_STEPS // 4}",
        f"train.sample_images_every={DVAE_STEPS}",
        'perceptual.path=""',
        *SHARDS,
    )
    transformer = [
        "run.name=transformer",
        f"text.vocab={DATA}/vocab.txt",
        f"data.tokens=[{DATA}/tokens]",
        f"image_tokenizer.path={FOLDER}/dvae/image_tokenizer",
        *SHARDS,
    ]
    say("4/8  the codes of all images, once for all epochs")
    vilg("data", "tokenize", "-c", str(PRETRAINING), *transformer)
    say("5/8  the transformer, both directions at once, on two processes; how long does a step take?")
    fleetrun(
        "pretrain",
        PRETRAINING,
        *transformer,
        "run.name=probe",
        f"train.steps={PROBE}",
        "train.warmup=0",
        "train.eval_every=0",
        "train.sample_images_every=0",
    )
    steps = steps_that_fit(began + 60 * options.minutes - AFTERWARDS - time.time(), seconds_a_step(FOLDER / "probe"))
    shutil.rmtree(FOLDER / "probe")
    if steps < STEPS:
        print(
            f"{steps:,} of its {STEPS:,} steps fit into {options.minutes:g} minutes; from fewer it draws more vaguely, and "
            "`make demo MINUTES=..` gives it more"
        )
    half = steps // 2
    transformer += [f"train.steps={steps}", f"train.sample_images_every={half}"]
    say(f"     it stops at step {half} ..")
    fleetrun("pretrain", PRETRAINING, *transformer, f"train.stop_at={half}")
    say("6/8  .. and goes on from its checkpoint, as after a night or a crash")
    fleetrun("pretrain", PRETRAINING, *transformer, "resume=auto")
    say("7/8  the export: programs that need nothing of what trained them")
    vilg("export", "--checkpoint", str(FOLDER / "transformer"), "--out", str(EXPORT))
    say("8/8  looking: the export draws and writes, and what was held out is measured")
    run(
        [
            sys.executable,
            "tools/report.py",
            str(FOLDER / "transformer"),
            str(EXPORT),
            str(FOLDER),
            "--began",
            str(began),
        ]
    )

    report = json.loads((FOLDER / "report.json").read_text())
    print(
        f"\nDone in {report['minutes']:.1f} minutes. Look at  {(FOLDER / 'report.html').resolve()}\n\nType next:\n"
        f"  {command('vilg')} generate --export {EXPORT} --text 红苹果 大象 -n 4 --temperature 0.2 --out drawn.png\n"
        f"  {command('vilg')} caption --export {EXPORT} --image drawn.png --greedy\n"
        f"  {command('visualdl')} --logdir {FOLDER}/transformer/visualdl"
    )


def seconds_a_step(run: Path) -> float:
    """The median, without the steps in which everything is done for the first time."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["seconds"] for line in lines[len(lines) // 3 :])


def steps_that_fit(seconds: float, one: float) -> int:
    """At most STEPS, and enough that there is something to look at even if it takes longer."""
    return max(200, min(STEPS, int(seconds / one)))


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def vilg(*arguments: str) -> None:
    run([sys.executable, "-m", "vilg.cli", *arguments])


def fleetrun(tool: str, config: Path, *overrides: str) -> None:
    run(
        [
            sys.executable,
            "-m",
            "paddle.distributed.launch",
            "--nproc_per_node",
            "2",
            "--log_dir",
            str(FOLDER / "log"),
            f"tools/{tool}.py",
            "-c",
            str(config),
            *overrides,
        ]
    )


def run(arguments: list[str]) -> None:
    done = subprocess.run(arguments)
    if done.returncode:
        sys.exit(f"demo: this failed with exit code {done.returncode}: {' '.join(arguments)}")


def command(name: str) -> str:
    """How to type a command of this Python's environment."""
    path = Path(sys.executable).parent / name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else name


if __name__ == "__main__":
    main()
