"""`vilg <command>`: what runs a command and says in one line what was wrong; the commands are in vilg/commands/.

Paddle takes a second to import, so the rooms are imported by the command that needs them.
"""

import argparse
import logging
import sys
import warnings

from vilg import __version__
from vilg.commands import bench, checkpoint, data, generation, serving, training
from vilg.config import renamed
from vilg.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input is one line on stderr, never a traceback."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatter in ("No ccache found", "Current global rank"):  # Paddle's, at every start, of no use to anyone
        warnings.filterwarnings("ignore", message=chatter)
    try:
        return options.run(options) or 0
    except UserError as error:
        print(f"vilg: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written to, a name that is a folder
        print(f"vilg: {error.filename or ''}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vilg: interrupted", file=sys.stderr)
        return 130


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """argparse takes the overrides in one row only; here they may stand anywhere between the options."""
    top = parser()
    # Before parsing, which would complain about a missing option first.
    for option in (word.partition("=")[0] for word in (sys.argv[1:] if arguments is None else arguments)):
        if option in renamed.OPTIONS:
            top.error(f"{option} is now called {renamed.OPTIONS[option]}")
    options, rest = top.parse_known_args(arguments)
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in overrides or not hasattr(options, "overrides")]:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides:
        options.overrides = [*options.overrides, *overrides]
    return options


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="vilg", description="Pre-train ERNIE-ViLG: pictures from Chinese text, Chinese text from pictures."
    )
    top.add_argument("--version", action="version", version=f"vilg {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for room in (data, training, checkpoint, generation, serving, bench):
        room.add(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
