"""The hosts of a job: how ssh reaches each of them, and under which address the other hosts do.

    [USER@]NAME[:SSH_PORT] [address=ADDRESS]

NAME is what ssh takes: a host name, an alias of ssh's configuration, an IPv4 address, or an IPv6 address in brackets.
ADDRESS is an IPv4 address or a host name in the network that the job uses, if that differs from NAME.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from vilg.errors import SettingsError, os_reason

SYNTAX = "[USER@]NAME[:SSH_PORT] [address=ADDRESS]"

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_USER = re.compile(r"[^\s@:\[\]-][^\s@:\[\]]*")
# MPI's host files have these words. The number of processes on a node is cluster.devices_per_node.
_IGNORED = ("slots=", "max_slots=", "max-slots=")


@dataclass(frozen=True)
class Host:
    """A host as the user named it. `user` and `ssh_port` are None where ssh chooses them. `address` is None until
    `with_addresses` has found it, unless the user gave it.
    """

    name: str
    user: str | None = None
    ssh_port: int | None = None
    address: str | None = None

    def __str__(self) -> str:
        """The name for logs and messages."""
        return self.name if self.ssh_port is None else f"{_bracketed(self.name)}:{self.ssh_port}"

    @property
    def is_this_machine(self) -> bool:
        """Whether commands run without ssh."""
        return self.name == "localhost" and self.user is None and self.ssh_port is None

    def shell_command(self, ssh: list[str], line: str) -> list[str]:
        """The command that runs a shell line on this host. ssh: the command that takes a host and a line."""
        if self.is_this_machine:
            return ["bash", "-c", line]
        port = [] if self.ssh_port is None else ["-p", str(self.ssh_port)]
        return [*ssh, *port, self.name if self.user is None else f"{self.user}@{self.name}", line]


def parse_hosts(text: str) -> list[Host]:
    """The hosts of a comma-separated list, in which spaces and empty entries do not count. Raises SettingsError."""
    hosts = [_parse_host(entry) for entry in text.split(",") if entry.strip()]
    if not hosts:
        raise SettingsError(f"--hosts '{text}': names no host")
    return _without_duplicates(hosts)


def read_hosts_file(file: Path) -> list[Host]:
    """The hosts of a file: one on each line, # starts a comment. Raises SettingsError."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else "not a text file"
        raise SettingsError(f"{file}: {reason}") from None
    hosts = []
    for number, line in enumerate(lines, 1):
        try:
            hosts += [_parse_host(entry) for entry in line.partition("#")[0].split(",") if entry.strip()]
        except SettingsError as error:
            raise SettingsError(f"{file}, line {number}: {error}") from None
    if not hosts:
        raise SettingsError(f"{file}: lists no host")
    return _without_duplicates(hosts)


def with_addresses(hosts: list[Host]) -> list[Host]:
    """The hosts with the addresses that fleetrun gets. Raises SettingsError.

    fleetrun takes an IPv4 address or a name with a dot. It ignores a `--host` without a dot (`rewrite_host_ip` in
    paddle/distributed/launch/plugins), after which no node considers itself the master and all wait for ever, and it
    splits endpoints at colons, which excludes IPv6. So other names are resolved here.
    """
    if len(hosts) == 1:
        return hosts
    found = [replace(host, address=host.address or _fleetrun_address(host)) for host in hosts]
    remote = [host.address for host in found if host.address and not is_loopback(host.address)]
    if remote:
        # localhost, and on Debian (127.0.1.1 in /etc/hosts) the name of this machine. Elsewhere it means another one.
        found = [
            replace(host, address=_own_address(host, remote[0])) if is_loopback(host.address or "") else host
            for host in found
        ]
    return _without_duplicates(found)


def resolve(name: str) -> str | None:
    """The IPv4 address of a name on this machine; None if it has none."""
    try:
        return socket.gethostbyname(name)
    except (OSError, UnicodeError):
        return None


def _parse_host(entry: str) -> Host:
    words = [word for word in entry.split() if not word.startswith(_IGNORED)]
    if not words:
        raise SettingsError(f"'{entry.strip()}': names no host; a host is {SYNTAX}")
    destination, *options = words
    user, at, place = destination.rpartition("@")
    if at and not _USER.fullmatch(user):
        raise SettingsError(f"{destination}: '{user}' is no user name; a host is {SYNTAX}")
    name, ssh_port = _split_port(place)
    address = None
    for option in options:
        key, _, value = option.partition("=")
        if key != "address" or address is not None:
            raise SettingsError(f"{destination} {option}: after the name only address=ADDRESS is known, once")
        address = _checked_address(destination, value)
    return Host(name, user if at else None, ssh_port, address)


def _split_port(place: str) -> tuple[str, int | None]:
    """(name, port) of NAME[:PORT] or [IPV6][:PORT]. An IPv6 address without a port needs no brackets."""
    if place.count(":") > 1 and not place.startswith("["):
        name, port = place, None
    elif match := re.fullmatch(r"(\[[^\]]*\]|[^:\[]*)(?::(.*))?", place):
        name, port = match[1], match[2]
    else:
        raise SettingsError(f"{place}: no host; an IPv6 address with a port is [ADDRESS]:PORT")
    if name.startswith("[") or ":" in name:
        name = name.strip("[]")
        if _version(name) != 6:
            raise SettingsError(f"{place}: '{name}' is no IPv6 address")
    elif not _is_name(name):
        raise SettingsError(f"{place}: '{name}' is no host name; a host is {SYNTAX}")
    if port is not None and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise SettingsError(f"{place}: '{port}' is no port of ssh (1 to 65535)")
    return name, None if port is None else int(port)


def _checked_address(destination: str, address: str) -> str:
    if _version(address.strip("[]")) == 6:
        raise SettingsError(
            f"{destination} address={address}: fleetrun cannot use IPv6; give an IPv4 address or a name"
        )
    if not _is_name(address):
        raise SettingsError(f"{destination} address={address}: neither an IPv4 address nor a host name")
    return address if "." in address else _resolved(destination, address)


def _fleetrun_address(host: Host) -> str:
    """An IPv4 address or a name with a dot for a host whose name is for ssh only, perhaps."""
    if _version(host.name) == 6:
        raise SettingsError(f"{host}: fleetrun cannot use IPv6; write '{host} address=' and an IPv4 address or a name")
    return host.name if "." in host.name else _resolved(str(host), host.name)


def _resolved(host: str, name: str) -> str:
    address = resolve(name)
    if address is None:
        raise SettingsError(
            f"{host}: this machine knows no IPv4 address of '{name}', and fleetrun takes only addresses and names with "
            f"a dot; write '{host} address=' and one of them"
        )
    return address


def _own_address(host: Host, peer: str) -> str:
    """The address of this machine in the network through which it reaches `peer`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))  # sends nothing, but chooses the interface
            return probe.getsockname()[0]
        except OSError as error:
            raise SettingsError(
                f"{host}: means this machine itself ({host.address}), whose address for {peer} is not known "
                f"({os_reason(error)}); write '{host} address=' and its address in the network of the job"
            ) from None


def _without_duplicates(hosts: list[Host]) -> list[Host]:
    """The same hosts. Raises SettingsError if two of them are the same."""
    for names, kind in (([str(host) for host in hosts], ""), ([host.address for host in hosts], " by its address")):
        for number, name in enumerate(names):
            if name is not None and name.lower() in _lower(names[:number]):
                raise SettingsError(f"{name}: a host is listed twice{kind}")
    return hosts


def _lower(names: Iterable[str | None]) -> list[str]:
    return [name.lower() for name in names if name is not None]


def is_loopback(address: str) -> bool:
    """Whether this is an IPv4 address of this machine only."""
    return _version(address) == 4 and ipaddress.ip_address(address).is_loopback


def _is_name(text: str) -> bool:
    """Whether this can be a host name or an IPv4 address. Digits and dots alone are an address, which may be wrong."""
    digits = text.replace(".", "").isdecimal()
    return _version(text) == 4 if digits else _NAME.fullmatch(text) is not None


def _version(text: str) -> int | None:
    """4 or 6 for an IP address; None for anything else."""
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return None


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name
