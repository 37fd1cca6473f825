"""`vilg checkpoint`."""

from pathlib import Path

from vilg.commands.command import command, group, overwrite_option
from vilg.files import refuse_existing


def add(commands) -> None:
    kinds = group(commands, "checkpoint", "list, verify or consolidate checkpoints", "vilg checkpoint list runs/emoji")
    run = "the folder of a run, or one of its step-* folders"
    listed = command(
        kinds,
        "list",
        "step, time, size and topology of each checkpoint, and whether it is complete",
        "vilg checkpoint list runs/emoji",
        _list_checkpoints,
    )
    listed.add_argument("run_folder", metavar="RUN", help=run)
    verified = command(
        kinds,
        "verify",
        "verify the hash of every file; exit code 1 if any is damaged",
        "vilg checkpoint verify runs/emoji",
        _verify_checkpoints,
    )
    verified.add_argument("run_folder", metavar="RUN", help=run)
    whole = command(
        kinds,
        "consolidate",
        "write the weights of a checkpoint as one safetensors file",
        "vilg checkpoint consolidate runs/emoji --out emoji.safetensors",
        _consolidate_checkpoint,
    )
    whole.add_argument("run_folder", metavar="RUN", help=f"{run}; for a run, its newest valid checkpoint is used")
    whole.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    overwrite_option(whole)


def _list_checkpoints(options) -> None:
    from vilg.checkpoint import inspection

    for line in inspection.list_checkpoints(options.run_folder):
        print(line)


def _verify_checkpoints(options) -> int:
    from vilg.checkpoint import inspection

    all_valid = True
    for line, good in inspection.verify_checkpoints(options.run_folder):
        print(line, flush=True)
        all_valid = all_valid and good
    return 0 if all_valid else 1


def _consolidate_checkpoint(options) -> None:
    from vilg.checkpoint import inspection

    refuse_existing("--out", options.out, options.overwrite)
    chosen, tensors = inspection.consolidate(options.run_folder, options.out)
    print(f"{options.out}: {tensors} tensors of {chosen}")
