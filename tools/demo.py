"""`make demo`: from nothing to pictures and captions, by a model trained while you watch, on two processes.

    python tools/demo.py [--began SECONDS_SINCE_1970]

Everything goes to runs/demo; the end is runs/demo/report.html and report.json.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

# No import of vilg: it sets the number of threads of this process, which every process started here would inherit.
FOLDER = Path("runs/demo")
DATA, EXPORT = FOLDER / "openmoji", FOLDER / "export"
VQVAE, PRETRAINING = Path("fleet_configs/emoji_vqvae_f8.yaml"), Path("fleet_configs/emoji.yaml")
HALF = 1300  # the step at which the run is stopped, to be resumed from its checkpoint
SHARDS = [f"data.shards=[{DATA}/train-*.tar]", f"data.heldout=[{DATA}/heldout-*.tar]", f"run.dir={FOLDER}"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--began", type=float, default=time.time(), help="when the installation began")
    began = options.parse_args().began
    if FOLDER.exists():
        print(f"{FOLDER} is there from an earlier demo and is replaced")
        shutil.rmtree(FOLDER)

    say("1/7  the data: 1,914 emoji with their Chinese names, drawn by OpenMoji")
    vilg("data", "openmoji", "--out", str(DATA))
    say("2/7  a WordPiece vocabulary from the captions")
    vilg("vocab", "--shards", f"{DATA}/train-*.tar", "--size", "4000", "--out", str(DATA / "vocab.txt"))
    say("3/7  the image tokenizer, a VQ-VAE: 64 x 64 pixels become 8 x 8 codes")
    fleetrun("train_image_tokenizer", VQVAE, "run.name=vqvae", *SHARDS)
    transformer = ["run.name=transformer", f"text.vocab={DATA}/vocab.txt",
                   f"image_tokenizer.path={FOLDER}/vqvae/image_tokenizer", *SHARDS]
    say(f"4/7  the transformer, both directions at once, on two processes; it stops at step {HALF} ..")
    fleetrun("pretrain", PRETRAINING, *transformer, f"train.stop_at={HALF}")
    say("5/7  .. and goes on from its checkpoint, as after a night or a crash")
    fleetrun("pretrain", PRETRAINING, *transformer, "resume=auto")
    say("6/7  the export: programs that need nothing of what trained them")
    vilg("export", "--checkpoint", str(FOLDER / "transformer"), "--out", str(EXPORT))
    say("7/7  looking: the export draws and writes, and what was held out is measured")
    run([sys.executable, "tools/report.py", str(FOLDER / "transformer"), str(EXPORT), str(FOLDER),
         "--began", str(began)])

    report = json.loads((FOLDER / "report.json").read_text())
    print(f"\nDone in {report['minutes']:.1f} minutes. Look at  {(FOLDER / 'report.html').resolve()}\n\nType next:\n"
          f"  {command('vilg')} generate --export {EXPORT} --text 红苹果 大象 -n 4 --temperature 0.2 --out drawn.png\n"
          f"  {command('vilg')} caption --export {EXPORT} --image drawn.png --greedy\n"
          f"  {command('visualdl')} --logdir {FOLDER}/transformer/visualdl")


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def vilg(*arguments: str) -> None:
    run([sys.executable, "-m", "vilg.cli", *arguments])


def fleetrun(tool: str, config: Path, *overrides: str) -> None:
    run([sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir",
         str(FOLDER / "log"), f"tools/{tool}.py", "-c", str(config), *overrides])


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
