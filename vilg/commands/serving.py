"""`vilg serve`."""

from dataclasses import fields
from pathlib import Path

from vilg.commands.command import command
from vilg.serving.limits import Limits


def add(commands) -> None:
    serve = command(
        commands,
        "serve",
        "serve an export with a web page and an HTTP API",
        "vilg serve --export emoji-export --port 7860",
        _run,
    )
    serve.add_argument("--export", type=Path, required=True, metavar="DIR", help="folder that `vilg export` wrote")
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="address to listen on; 0.0.0.0 for all addresses of this machine (127.0.0.1)",
    )
    serve.add_argument("--port", type=int, default=7860, metavar="N", help="port to listen on; 0: any free port (7860)")
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
