"""`make demo`: trains a model from scratch on two processes and reports what it has learned.

    python tools/demo.py [--minutes 15] [--began SECONDS_SINCE_1970]

Everything is written to runs/demo; the results are runs/demo/report.html and report.json. The transformer is trained
for as many of its steps as fit into the given minutes.
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

# vilg is not imported, because child processes would inherit the number of threads that it sets.
FOLDER = Path("runs/demo")
DATA, EXPORT = FOLDER / "openmoji", FOLDER / "export"
DVAE, PRETRAINING = Path("fleet_configs/emoji_dvae.yaml"), Path("fleet_configs/emoji.yaml")
DVAE_STEPS = 1800  # about three minutes; its settings are for ten
STEPS = yaml.safe_load(PRETRAINING.read_text("utf-8"))["train"]["steps"]  # of the transformer
PROBE = 24  # steps for measuring the time of a step
AFTERWARDS = 100.0  # seconds for everything except the steps: two starts, evaluation, sample images, export, report
SHARDS = [f"data.shards=[{DATA}/train-*.tar]", f"data.heldout=[{DATA}/heldout-*.tar]", f"run.dir={FOLDER}"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=15.0, help="total time (15)")
    options.add_argument(
        "--began", type=float, default=time.time(), help="start of the installation, in seconds since 1970"
    )
    options = options.parse_args()
    began = options.began
    if FOLDER.exists():
        print(f"{FOLDER} exists from an earlier demo and is replaced")
        shutil.rmtree(FOLDER)

    say("1/8  data set: 1,914 emoji by OpenMoji with Chinese names")
    vilg("data", "openmoji", "--out", str(DATA))
    say("2/8  WordPiece vocabulary of the captions")
    vilg("vocab", "--shards", f"{DATA}/train-*.tar", "--size", "4000", "--out", str(DATA / "vocab.txt"))
    say("3/8  image tokenizer: a dVAE that encodes 64 x 64 pixels as 8 x 8 codes")
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
    say("4/8  token shards: the codes of all images")
    vilg("data", "tokenize", "-c", str(PRETRAINING), *transformer)
    say("5/8  transformer: both directions, on two processes; measuring the time of a step")
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
            f"{steps:,} of {STEPS:,} steps fit into {options.minutes:g} minutes; `make demo MINUTES=..` trains for "
            "longer, which gives better images"
        )
    half = steps // 2
    transformer += [f"train.steps={steps}", f"train.sample_images_every={half}"]
    say(f"     training stops at step {half}")
    fleetrun("pretrain", PRETRAINING, *transformer, f"train.stop_at={half}")
    say("6/8  training resumes from its checkpoint")
    fleetrun("pretrain", PRETRAINING, *transformer, "resume=auto")
    say("7/8  export to inference models")
    vilg("export", "--checkpoint", str(FOLDER / "transformer"), "--out", str(EXPORT))
    say("8/8  report: samples from the export, and metrics on held-out data")
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
        f"\nDone in {report['minutes']:.1f} minutes. Open  {(FOLDER / 'report.html').resolve()}\n\nNext steps:\n"
        f"  {command('vilg')} generate --export {EXPORT} --text 红心 --temperature 0.2 --out heart.png\n"
        f"  {command('vilg')} caption --export {EXPORT} --image heart.png\n"
        f"  {command('visualdl')} --logdir {FOLDER}/transformer/visualdl"
    )


def seconds_a_step(run: Path) -> float:
    """Median seconds of a step, without the first ones."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["seconds"] for line in lines[len(lines) // 3 :])


def steps_that_fit(seconds: float, seconds_per_step: float) -> int:
    """Number of steps: at most STEPS, and at least 200, even if that takes longer."""
    return max(200, min(STEPS, int(seconds / seconds_per_step)))


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
    process = subprocess.run(arguments)
    if process.returncode:
        sys.exit(f"demo: failed with exit code {process.returncode}: {' '.join(arguments)}")


def command(name: str) -> str:
    """How to call a command of this Python's environment."""
    path = Path(sys.executable).parent / name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else name


if __name__ == "__main__":
    main()
