"""What a node checks before a job starts. The launcher (preflight.py) starts this on every node at the same time.

    python -m vilg.distributed.launch.preflight_node REQUEST

REQUEST is a `Request` as a JSON object. The first line on stdout is a report as a JSON object: the versions of this
node, the digest of the settings file, and faults. After a line on stdin, when all nodes have reported, this node looks
for what the first node has written, connects to its port, and reports a second time. The end of stdin ends the check.
"""

import fcntl
import hashlib
import json
import os
import platform
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import vilg
from vilg.distributed.launch.hosts import is_loopback, resolve
from vilg.errors import os_reason

_CONNECTING = 10.0  # seconds
_SIOCGIFADDR = 0x8915  # netdevice(7): the IPv4 address of a network interface


@dataclass(frozen=True)
class Request:
    """What a node is to check.

    node: index. token: names this check; all nodes get the same. folders: all nodes have to share them. address: of
    this node in the network of the job. master: address and port of the first node. Both are None if there is one node.
    """

    node: int
    token: str
    settings_file: str
    folders: list[str]
    address: str | None = None
    master: tuple[str, int] | None = None

    def mark(self, folder: str, node: int) -> Path:
        """The file that a node writes in a shared folder."""
        return Path(folder) / f".preflight-{self.token}-{node}"


def main(request: Request) -> int:
    faults: list[str] = []
    with _marks(request, faults), _master(request, faults):
        faults += _gloo_faults(request.address)
        print(
            json.dumps({"versions": versions(), "settings": digest(request.settings_file), "faults": faults}),
            flush=True,
        )
        if sys.stdin.readline():
            print(json.dumps({"faults": [*_sharing_faults(request), *_connection_faults(request)]}), flush=True)
            sys.stdin.read()  # other nodes may still be looking
    return 0


def versions() -> dict[str, str]:
    """The programs of this node of which all nodes need the same version."""
    found = {
        "vilg": f"{vilg.__version__} ({_source_digest()})",
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "Paddle": "none",
    }
    for name in ("paddlepaddle", "paddlepaddle-gpu"):
        with suppress(metadata.PackageNotFoundError):
            found["Paddle"] = f"{metadata.version(name)} ({name})"
    return found


def digest(file: str) -> str | None:
    """Names the content of a file; None if it cannot be read."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    except OSError:
        return None


def _source_digest() -> str:
    """Names the content of the package. Two checkouts of one version may differ."""
    package = Path(vilg.__file__).parent
    content = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        content.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return content.hexdigest()[:12]


@contextmanager
def _marks(request: Request, faults: list[str]) -> Iterator[None]:
    """A file of this node in each shared folder during the block. The folders stay, because the run needs them."""
    marks = []
    for folder in request.folders:
        mark = request.mark(folder, request.node)
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            marks.append(mark)
            mark.write_text(request.token)
        except OSError as error:
            faults.append(f"{folder}: {os_reason(error)}; choose another folder, or let every node write there")
    try:
        yield
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


@contextmanager
def _master(request: Request, faults: list[str]) -> Iterator[None]:
    """During the block the first node sends the token to everybody who connects to the master's port."""
    if request.master is None or request.node > 0:
        yield
        return
    try:
        server = socket.create_server(("", request.master[1]))
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()  # without Python's addition
        faults.append(f"port {request.master[1]}: {reason}; end the process that uses it, or set cluster.master_port")
        yield
        return
    threading.Thread(target=_serve, args=(server, request.token), daemon=True).start()
    with server:
        yield


def _serve(server: socket.socket, token: str) -> None:
    with suppress(OSError):  # the server is closed
        while True:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(token.encode())


def _sharing_faults(request: Request) -> list[str]:
    """The folders in which this node does not find what the first node has written."""
    faults = []
    for folder in request.folders:
        try:
            os.listdir(folder)  # NFS may remember for a minute that the file was not there
            shared = request.mark(folder, 0).read_text() == request.token
        except OSError:
            shared = False
        if not shared:
            faults.append(
                f"{folder}: a file of the first node is not there; the folder has to be on storage that all nodes share"
            )
    return faults


def _connection_faults(request: Request) -> list[str]:
    if request.master is None or request.node == 0:
        return []
    (address, port), meaning = request.master, "unknown"
    try:
        meaning = socket.gethostbyname(address)
        with socket.create_connection((meaning, port), _CONNECTING) as connection:
            if connection.recv(len(request.token)) == request.token.encode():
                return []
        reason = "another program answers"
    except OSError as error:
        reason = os_reason(error)
    return [
        f"cannot reach the first node at {address}:{port} ({address} is {meaning} here): {reason}; open the ports "
        "between the nodes, or give the first host the 'address=' by which all nodes reach it"
    ]


def _gloo_faults(address: str | None) -> list[str]:
    """On CPUs, gloo listens where the own name of the host points to. On Debian, this is 127.0.1.1."""
    uses_gloo = "paddlepaddle-gpu" not in versions()["Paddle"] and "GLOO_SOCKET_IFNAME" not in os.environ
    if address is None or not uses_gloo or is_loopback(address):
        return []
    name = socket.gethostname()
    own = resolve(name)
    if own is not None and not is_loopback(own):
        return []
    interfaces = ", ".join(_interfaces()) or "see `ip address`"
    return [
        f"its own name {name} is {own or 'unknown'} here, where other nodes cannot reach gloo; set "
        f"cluster.environment.GLOO_SOCKET_IFNAME to its network interface ({interfaces})"
    ]


def _interfaces() -> list[str]:
    """The network interfaces that have an IPv4 address, without the loopback."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if answer[20] != 127:
                    found.append(name)
    return found


if __name__ == "__main__":
    sys.exit(main(Request(**json.loads(sys.argv[1]))))
