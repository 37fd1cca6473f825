"""`vilg serve`."""

from dataclasses import fields
from pathlib import Path

from vilg.commands.command import command
from vilg.serving.limits import Limits


def add(commands) -> None:
    serve = command(
        commands,
        "serve",
        "serve an export with a web page and a JSON API",
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
    serve.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="require the token in the first line of this file: as the password in a browser, or as a bearer token",
    )
    serve.add_argument(
        "--open", action="store_true", help="accept requests from other machines without a token, with --host"
    )
    serve.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="without a token: a name of this server besides localhost, for a reverse proxy",
    )
    serve.add_argument(
        "--root-path", default="", metavar="PATH", help="path below which a reverse proxy publishes the server: /vilg"
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
    from vilg.serving.server import Access, read_token, serve

    limits = Limits(**{limit.name: getattr(options, limit.name) for limit in fields(Limits)})
    token = read_token(options.token_file) if options.token_file else None
    hosts = tuple(options.allowed_host)
    access = Access(options.host, options.port, token, options.open, hosts, options.root_path)
    serve(options.export, access, limits)
