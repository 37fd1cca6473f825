"""A separate store for each gloo group.

`ProcessGroupGloo.create` writes the addresses of group members under their rank into the one TCPStore of the job, so
that two groups overwrite each other's addresses (collective.py, `_new_process_group_impl`). Connections are then
refused or wait forever. With one store for each group there are no conflicts.
"""

import os
import socket

from paddle.base import core
from paddle.distributed import collective

_SECONDS = 900
_stores: list[core.TCPStore] = []  # keeps the stores alive, which the groups need
_original = collective._new_process_group_impl


def install() -> None:
    collective._new_process_group_impl = _new_process_group  # type: ignore[assignment]


def _new_process_group(backend, store, rank, ranks, name, pg_options, group_id=0, **more):
    if backend == "gloo" and group_id != 0:
        store = _group_store(f"vilg/{name}", store, rank, ranks)
    return _original(backend, store, rank, ranks, name, pg_options, group_id, **more)


def _group_store(name: str, common: core.TCPStore, rank: int, ranks: int) -> core.TCPStore:
    """The store of a group: the group's rank 0 serves it, and publishes its address in the common store."""
    if rank == 0:
        host, port = os.environ["PADDLE_CURRENT_ENDPOINT"].rsplit(":", 1)[0], _free_port()
        common.set(name, f"{host}:{port}")  # before the store is created, which waits for all members
    else:
        host, _, suffix = bytes(common.get(name)).decode().rpartition(":")
        port = int(suffix)
    _stores.append(core.TCPStore(host, port, rank == 0, ranks, _SECONDS))
    return _stores[-1]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]
