"""The hosts of a job as users write them, and the addresses that fleetrun gets."""

import socket

import pytest

from vilg.distributed.launch import hosts
from vilg.distributed.launch.hosts import Host, parse_hosts, read_hosts_file, with_addresses
from vilg.errors import SettingsError


@pytest.fixture
def names(monkeypatch):
    """What host names mean on this machine: a is its own name, as on Debian."""
    known = {"localhost": "127.0.0.1", "a": "127.0.1.1", "b": "10.0.0.2", "c": "10.0.0.3", "c-ib": "10.1.0.3"}
    known |= {"also-c": "10.0.0.3", "a.lab": "127.0.1.1", "b.lab": "10.0.0.2"}
    monkeypatch.setattr(hosts, "resolve", known.get)

    class Probe:
        """The socket that finds the route to a host."""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def connect(self, peer):
            if not peer[0].startswith("10."):
                raise OSError(101, "Network is unreachable")
            self.own = peer[0].rpartition(".")[0] + ".99"

        def getsockname(self):
            return self.own, 1

    monkeypatch.setattr(socket, "socket", lambda *_: Probe())
    return known


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a", [Host("a")]),
        ("a,b", [Host("a"), Host("b")]),
        (" a , b,, c ,", [Host("a"), Host("b"), Host("c")]),
        ("me@a,you@b.lab:2222", [Host("a", "me"), Host("b.lab", "you", 2222)]),
        ("10.0.0.1:22", [Host("10.0.0.1", None, 22)]),
        ("[fe80::1]:2222", [Host("fe80::1", None, 2222)]),
        ("me@[::1],fd00::2", [Host("::1", "me"), Host("fd00::2")]),
        ("[fe80::1%eth0]", [Host("fe80::1%eth0")]),
        (
            "gpu_1 address=10.0.0.1, b:1 address=b.ib",
            [Host("gpu_1", None, None, "10.0.0.1"), Host("b", None, 1, "b.ib")],
        ),
        ("a slots=8", [Host("a")]),
        ("h:2201 address=10.0.0.1,h:2202 address=10.0.0.2", None),
    ],
)
def test_hosts_are_parsed(text, expected):
    found = parse_hosts(text)
    assert found == expected if expected else len(found) == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "names no host"),
        (" , ,", "names no host"),
        ("address=10.0.0.1", "'address=10.0.0.1' is no host name"),
        ("a b", "after the name only address=ADDRESS is known"),
        ("a adress=10.0.0.1", "a adress=10.0.0.1: after the name only address="),
        ("a address=10.0.0.1 address=10.0.0.2", "only address=ADDRESS is known, once"),
        ("a:ssh", "'ssh' is no port of ssh"),
        ("a:", "'' is no port of ssh"),
        ("a:0", "'0' is no port"),
        ("a:65536", "'65536' is no port"),
        ("a:٢٢", "'٢٢' is no port"),
        ("a:22:23", "'a:22:23' is no IPv6 address"),
        ("[a]:22", "'a' is no IPv6 address"),
        ("[::1]22", "an IPv6 address with a port is [ADDRESS]:PORT"),
        ("-oProxyCommand=x", "'-oProxyCommand=x' is no host name"),
        ("-l@a", "'-l' is no user name"),
        ("@a", "'' is no user name"),
        ("10.0.0.300", "'10.0.0.300' is no host name"),
        ("a address=", "a address=: neither an IPv4 address nor a host name"),
        ("a address=fe80::1", "fleetrun cannot use IPv6"),
        ("a;reboot", "'a;reboot' is no host name"),
        ("a,b,A", "A: a host is listed twice"),
        ("me@a,you@a", "a: a host is listed twice"),
        ("a:22 address=10.0.0.1,b address=10.0.0.1", "10.0.0.1: a host is listed twice by its address"),
    ],
)
def test_errors_name_the_host_and_the_syntax(text, message):
    with pytest.raises(SettingsError) as caught:
        parse_hosts(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_hosts_file(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# the rack\na slots=8  # the master\n\n  me@b:22 address=10.0.0.2 ,\n")
    assert read_hosts_file(file) == [Host("a"), Host("b", "me", 22, "10.0.0.2")]
    file.write_text("a\nb c\n")
    with pytest.raises(SettingsError, match="line 2: b c: after the name"):
        read_hosts_file(file)
    file.write_text("# nobody\n")
    with pytest.raises(SettingsError, match="lists no host"):
        read_hosts_file(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="hosts: not a text file"):
        read_hosts_file(file)
    with pytest.raises(SettingsError, match="nowhere: no such file"):
        read_hosts_file(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text, addresses",
    [
        ("b,c", ["10.0.0.2", "10.0.0.3"]),
        ("b.lab,c.lab", ["b.lab", "c.lab"]),
        ("10.0.0.7,b", ["10.0.0.7", "10.0.0.2"]),
        ("a,b", ["10.0.0.99", "10.0.0.2"]),  # the name of this machine means 127.0.1.1
        ("localhost,c", ["10.0.0.99", "10.0.0.3"]),
        ("a.lab,b", ["a.lab", "10.0.0.2"]),  # the others resolve it, and fleetrun compares names
        ("a,c address=c-ib", ["10.1.0.99", "10.1.0.3"]),
        ("[fe80::1]:22 address=10.0.0.8,b", ["10.0.0.8", "10.0.0.2"]),
        ("unknown address=u.lab,b", ["u.lab", "10.0.0.2"]),
        ("127.0.0.1,127.0.0.2", ["127.0.0.1", "127.0.0.2"]),  # two nodes on this machine
        ("unknown", [None]),  # one host needs no address
    ],
)
def test_addresses_are_ipv4_or_have_a_dot(names, text, addresses):
    assert [host.address for host in with_addresses(parse_hosts(text))] == addresses


@pytest.mark.parametrize(
    "text, message",
    [
        ("b,unknown", "unknown: this machine knows no IPv4 address of 'unknown'"),
        ("b,unknown", "write 'unknown address='"),
        ("b,c address=unknown", "c: this machine knows no IPv4 address of 'unknown'"),
        ("b,[::1]", "::1: fleetrun cannot use IPv6"),
        ("c,also-c", "10.0.0.3: a host is listed twice by its address"),
        ("a,192.0.2.1", "a: means this machine itself (127.0.1.1)"),
    ],
)
def test_hosts_without_an_address_are_refused(names, text, message):
    with pytest.raises(SettingsError) as caught:
        with_addresses(parse_hosts(text))
    assert message in str(caught.value)


def test_ssh_gets_user_and_port():
    assert Host("a").shell_command(["ssh", "-q"], "ls") == ["ssh", "-q", "a", "ls"]
    assert Host("::1", "me", 22).shell_command(["ssh"], "ls") == ["ssh", "-p", "22", "me@::1", "ls"]
    assert Host("localhost").shell_command(["ssh"], "ls") == ["bash", "-c", "ls"]
    assert Host("localhost", None, 2222).shell_command(["ssh"], "ls")[0] == "ssh"
    assert str(Host("::1", "me", 22)) == "[::1]:22" and str(Host("a", "me")) == "a"
