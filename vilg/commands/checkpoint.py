"""`vilg checkpoint`."""

from pathlib import Path

from vilg.commands.command import command, group


def add(commands) -> None:
    kinds = group(commands, "checkpoint", "list, verify or consolidate checkpoints", "vilg checkpoint list runs/emoji")
    run = "a run's folder, or one step-* folder in it"
    listed = command(
        kinds,
        "list",
        "step, time, size, world, and whether all of each checkpoint is there",
        "vilg checkpoint list runs/emoji",
        _list_checkpoints,
    )
    listed.add_argument("run_folder", metavar="RUN", help=run)
    verified = command(
        kinds,
        "verify",
        "hash every file of every checkpoint; exit code 1 if any is damaged",
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
    whole.add_argument("run_folder", metavar="RUN", help=f"{run}; of a run the newest valid checkpoint")
    whole.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")


def _list_checkpoints(options) -> None:
    from vilg.checkpoint import inspection

    for line in inspection.list_checkpoints(options.run_folder):
        print(line)


def _verify_checkpoints(options) -> int:
    from vilg.checkpoint import inspection

    well = True
    for line, good in inspection.verify_checkpoints(options.run_folder):
        print(line, flush=True)
        well = well and good
    return 0 if well else 1


def _consolidate_checkpoint(options) -> None:
    from vilg.checkpoint import inspection

    chosen, tensors = inspection.consolidate(options.run_folder, options.out)
    print(f"{options.out}: {tensors} tensors of {chosen}")
