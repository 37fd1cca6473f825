"""Helpers for declaring commands with uniform help and settings."""

import argparse
import signal
from collections.abc import Callable
from pathlib import Path


def command(commands, name: str, summary: str, example: str, run: Callable) -> argparse.ArgumentParser:
    """Add a command. `run` is called with the parsed options."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def group(commands, name: str, summary: str, example: str, description: str | None = None):
    """Add a group of subcommands, and return the object to add them to."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description or summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(metavar="KIND", required=True)


def settings(
    parser: argparse.ArgumentParser, file: str = "settings of the run in YAML", required: bool = False
) -> None:
    """Add `-c FILE` and `key=value` arguments, for config.resolve."""
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", required=required, help=file)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override those of the file")


def positive(text: str) -> int:
    """An argument type for positive integers."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be positive")
    return number


def interrupt_on_sigterm() -> None:
    """From now on, SIGTERM ends this command like Ctrl-C, so that unfinished files are removed."""

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def overwrite_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
