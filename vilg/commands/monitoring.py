"""`vilg watch`."""

from pathlib import Path

from vilg.commands.command import command


def add(commands) -> None:
    watch = command(
        commands,
        "watch",
        "show a run in the terminal: curves, where its time goes, checkpoints, the time to its end",
        "vilg watch runs/emoji\n  vilg watch runs/emoji --once --curve loss_t2i --curve mfu",
        _run,
    )
    watch.add_argument("run_folder", type=Path, metavar="RUN", help="the folder of a run: run.dir/run.name")
    watch.add_argument("--once", action="store_true", help="print it once, which is what happens in a pipe, too")
    watch.add_argument(
        "--curve",
        action="append",
        default=[],
        metavar="NAME",
        help="a key of metrics.jsonl to plot, repeatable (loss, a held-out metric, grad_norm, speed)",
    )
    watch.add_argument(
        "--every", type=float, default=2.0, metavar="SECONDS", help="time between two looks at the run (2)"
    )


def _run(options) -> None:
    from vilg.monitoring.watch import watch

    watch(options.run_folder, options.curve, options.once, max(0.1, options.every))
