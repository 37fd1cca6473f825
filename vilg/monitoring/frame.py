"""What `vilg watch` shows, as renderables of rich."""

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vilg.monitoring.curves import curve, default_curves
from vilg.monitoring.run_folder import RunFolder
from vilg.monitoring.summary import Summary, summarize
from vilg.progress import duration

_WIDE = 100  # columns from which two curves fit beside each other
_FRAME = 4  # rows of a curve for its title, frame and labels
_TALL = 40  # rows from which there is room for everything
_LINES = 5  # last lines of metrics.jsonl
_LOG_LINES = 3


def frame(run: RunFolder, now: float, console: Console, names: list[str], rows: int | None = None) -> RenderableType:
    """Everything about a run. names: metrics to plot; empty: a choice. rows: of the terminal, None if it has no end."""
    summary = summarize(run, now)
    parts: list[RenderableType] = [_heading(run, summary)]
    tall = rows is None or rows >= _TALL
    if run.lines:
        below = [_last_lines(run.lines[-(_LINES if tall else 2) :], console.width)]
        if summary.shares:
            below = [_time(summary) if tall else _time_in_a_line(summary), *below]
    else:
        below = []
    below += [_list("checkpoints", run.checkpoints if tall else run.checkpoints[-1:])]
    if run.log and not summary.ended:
        path, log = run.log
        below.append(_list(f"end of {path.relative_to(run.folder)}", log[-(_LOG_LINES if tall else 1) :]))
    if run.lines:
        free = None if rows is None else rows - _height(console, [*parts, *below])
        parts.append(_curves(run, console, names or default_curves(run.lines), free))
    return Group(*parts, *below)


def _height(console: Console, parts: list[RenderableType]) -> int:
    return len(console.render_lines(Group(*parts), console.options.update(height=None)))


def _heading(run: RunFolder, summary: Summary) -> RenderableType:
    colour = "yellow" if summary.is_stalled else "green"
    title = Group(Text(str(run.folder), "bold"), Text(summary.state, colour))
    if not run.lines:
        return title
    line = run.lines[-1]
    of = f" of {summary.steps:,} ({summary.step / summary.steps:.0%})" if summary.steps else ""
    progress = [f"step {summary.step:,}{of}"]
    if "epoch" in line:
        progress.append(f"epoch {line['epoch']:.2f}")
    if "eta_seconds" in line and not (summary.ended or summary.is_stalled):
        progress.append(f"{duration(line['eta_seconds'])} left")
    bar = [Bar(summary.steps, 0, summary.step)] if summary.steps else []
    return Group(title, Text("   ".join(progress)), *bar, Text("   ".join(_now(line))))


def _now(line: dict[str, float]) -> list[str]:
    """The speed and the memory at the last step."""
    speeds = [name for name in line if name.endswith("_per_second")]
    shown = [f"{line[name]:,.0f} {name.removesuffix('_per_second')}/s" for name in speeds]
    shown += [f"{line[f'{name}_per_device']:,.0f} a device" for name in speeds if f"{name}_per_device" in line]
    for name, form in (
        ("mfu", "MFU {:.1%}"),
        ("memory_peak_gb", "memory {:.1f} GB peak"),
        ("memory_reserved_gb", "{:.1f} GB reserved"),
        ("loss_scale", "loss scale {:g}"),
    ):
        if name in line:
            shown.append(form.format(line[name]))
    return shown


def _curves(run: RunFolder, console: Console, names: list[str], free: int | None) -> RenderableType:
    """Curves in one or two columns, as many and as high as there is room for."""
    columns = 2 if console.width >= _WIDE else 1
    width = console.width // columns - (columns - 1)
    rows_of_curves = -(-len(names) // columns)
    if free is not None:  # the first curve is always shown
        rows_of_curves = max(1, min(rows_of_curves, free // (_FRAME + 4)))
    height = 8 if free is None else max(2, min(14, free // rows_of_curves - _FRAME))
    shown = names[: rows_of_curves * columns]
    plots = [
        Text(curve(name, *run.series(name), width, height, console.options.ascii_only), no_wrap=True) for name in shown
    ]
    grid = Table.grid(padding=(0, 1))
    for start in range(0, len(plots), columns):
        grid.add_row(*plots[start : start + columns])
    return grid


def _time(summary: Summary) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    table.add_column(ratio=1)
    for label, share in summary.shares.items():
        table.add_row(label, f"{share:.1%}", Bar(1.0, 0.0, share, width=30))
    advice = [Text(text, "yellow") for text in summary.advice]
    return _section("where the time goes", Group(table, *advice))


def _time_in_a_line(summary: Summary) -> RenderableType:
    shares = ", ".join(f"{label} {share:.0%}" for label, share in summary.shares.items())
    return Text.assemble(("where the time goes", "bold"), f"  {shares}", no_wrap=True, overflow="ellipsis")


def _last_lines(lines: list[dict[str, float]], width: int) -> RenderableType:
    wanted = ["step", "loss", *(name for name in lines[-1] if name.startswith("loss_") and name != "loss_scale")]
    wanted += ["grad_norm", "lr", "data_wait_share", "seconds"]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in [name for name in wanted if name in lines[-1]][: max(3, width // 12)]:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            *(f"{line[str(column.header)]:.5g}" if str(column.header) in line else "" for column in table.columns)
        )
    return _section("last steps", table)


def _list(title: str, lines: list[str]) -> RenderableType:
    return _section(title, Text("\n".join(lines), no_wrap=True, overflow="ellipsis"))


def _section(title: str, content: RenderableType) -> RenderableType:
    return Group(Text(title, "bold"), Padding(content, (0, 0, 0, 2)))
