"""How commands are declared: one form of help, one way to give settings."""

import argparse
from collections.abc import Callable
from pathlib import Path


def command(commands, name: str, help: str, example: str, run: Callable) -> argparse.ArgumentParser:
    """A command that `run` runs, given the options."""
    made = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(run=run)
    return made


def group(commands, name: str, help: str, example: str, description: str | None = None):
    """Commands under a common name; returns where they are added."""
    made = commands.add_parser(
        name,
        help=help,
        description=description or help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return made.add_subparsers(metavar="KIND", required=True)


def settings(
    made: argparse.ArgumentParser, file: str = "the settings of the run, in YAML", required: bool = False
) -> None:
    """`-c FILE` and `key=value`, which config.resolve reads."""
    made.add_argument("-c", "--config", type=Path, metavar="FILE", required=required, help=file)
    made.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")


def positive(text: str) -> int:
    """A type for arguments."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be positive")
    return number
