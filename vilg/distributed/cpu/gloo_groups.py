"""A store of its own for each gloo group.

`ProcessGroupGloo.create` writes the addresses of a group's members under their bare numbers into the one TCPStore of
the job, so two groups overwrite each other's (collective.py, `_new_process_group_impl`): connections are refused, or
wait for ever. With a store a group there is nothing to overwrite.
"""

import os
import socket

from paddle.base import core
from paddle.distributed import collective

_SECONDS = 900
_stores = []  # a store dies with its last reference, and its group with it
_original = collective._new_process_group_impl


def install() -> None:
    collective._new_process_group_impl = _new_process_group


def _new_process_group(backend, store, rank, ranks, name, pg_options, group_id=0, **more):
    if backend == "gloo" and group_id != 0:
        store = _store_of(f"vilg/{name}", store, rank, ranks)
    return _original(backend, store, rank, ranks, name, pg_options, group_id, **more)


def _store_of(name: str, common: core.TCPStore, rank: int, ranks: int) -> core.TCPStore:
    """Rank 0 of the group serves it; the others learn where from the common store."""
    if rank == 0:
        host, port = os.environ["PADDLE_CURRENT_ENDPOINT"].rsplit(":", 1)[0], _free_port()
        common.set(name, f"{host}:{port}")  # first: the server waits for all members
    else:
        host, _, port = bytes(common.get(name)).decode().rpartition(":")
    _stores.append(core.TCPStore(host, int(port), rank == 0, ranks, _SECONDS))
    return _stores[-1]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]
