"""Prevents the server from connecting to other hosts, by itself or on behalf of a request."""

import sys

# Read by gradio and huggingface_hub when they are imported.
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}

# Audit events of Python for name resolution and outgoing connections.
_OUTWARD = {
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
}


def disable_network_access() -> None:
    """Refuse every connection that this process opens from now on.

    gradio would fetch a URL that a client sends in place of an image, in any field.
    """
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple) -> None:
    if event in _OUTWARD and not _local(event, arguments):
        raise PermissionError("this server fetches nothing from other hosts")


def _local(event: str, arguments: tuple) -> bool:
    """Whether the address is a socket in the file system."""
    return event.startswith(("socket.connect", "socket.send")) and isinstance(arguments[-1], (str, bytes))
