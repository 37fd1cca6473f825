"""`vilg serve`."""

from dataclasses import fields
from pathlib import Path

from vilg.commands.command import command
from vilg.serving.limits import Limits


def add(commands) -> None:
    serve = command(
        commands,
        "serve",
        "a page and an HTTP API that draw and describe, over an export",
        "vilg serve --export emoji-export --port 7860",
        _run,
    )
    serve.add_argument("--export", type=Path, required=True, metavar="DIR", help="what `vilg export` wrote")
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="the address to listen at; 0.0.0.0 is every one of this machine (127.0.0.1)",
    )
    serve.add_argument(
        "--port", type=int, default=7860, metavar="N", help="the port to listen at; 0: any free one (7860)"
    )
    for limit in fields(Limits):
        serve.add_argument(
            f"--{limit.name}",
            type=int,
            default=limit.default,
            metavar="N",
            help=f"{limit.metadata['help']} ({limit.default})",
        )


def _run(options) -> None:
    from vilg.serving.server import serve

    serve(
        options.export,
        options.host,
        options.port,
        Limits(**{limit.name: getattr(options, limit.name) for limit in fields(Limits)}),
    )
