"""The command `vilg`. Runs one command and reports errors of the user in one line. The commands are in vilg/commands/.

Importing Paddle takes a second, so each command imports the packages that it needs.
"""

import argparse
import io
import logging
import sys
import warnings

from vilg import __version__
from vilg.commands import bench, checkpoint, data, evaluation, generation, monitoring, serving, training
from vilg.config import renamed
from vilg.errors import UserError
from vilg.files import user_message


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. Bad input is reported in one line on stderr, without a traceback."""
    for stream in sys.stdout, sys.stderr:  # a locale that cannot print Chinese must not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatter in ("No ccache found", "Current global rank"):  # warnings of Paddle at every start
        warnings.filterwarnings("ignore", message=chatter)
    try:
        return options.run(options) or 0
    except UserError as error:
        print(f"vilg: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # for example a full disk or missing permission
        message = user_message(error)
        if message is None:
            raise
        print(f"vilg: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vilg: interrupted", file=sys.stderr)
        return 130


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse arguments. argparse accepts key=value overrides only in one group; here they may be anywhere between
    options.
    """
    top = parser()
    # Before parsing, which would complain about a missing option first.
    for option in (word.partition("=")[0] for word in (sys.argv[1:] if arguments is None else arguments)):
        if option in renamed.OPTIONS:
            top.error(f"{option} is now called {renamed.OPTIONS[option]}")
    options, rest = top.parse_known_args(arguments)
    if hasattr(options, "other_arguments"):  # the command passes them on to another program
        options.other_arguments = rest
        return options
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in overrides or not hasattr(options, "overrides")]:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides:
        options.overrides = [*options.overrides, *overrides]
    return options


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="vilg", description="Pre-train ERNIE-ViLG: images from Chinese text, Chinese text from images."
    )
    top.add_argument("--version", action="version", version=f"vilg {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for module in (data, training, monitoring, checkpoint, generation, evaluation, serving, bench):
        module.add(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
