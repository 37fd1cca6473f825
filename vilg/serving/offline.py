"""A server that contacts nobody: neither for its own sake nor because a request asks it to."""

import sys

# Of gradio and of huggingface_hub, which it imports; both read them while they are imported.
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}

# What Python tells its audit hooks before it looks up a name or sends anything to an address.
_OUTWARD = {
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
}


def connect_to_nobody() -> None:
    """Refuse every connection that this process would begin from now on, for good.

    gradio fetches the address of a picture where a client gives one instead of a picture, in any field.
    """
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple) -> None:
    if event in _OUTWARD and not _local(event, arguments):
        raise PermissionError("this server fetches nothing from other hosts")


def _local(event: str, arguments: tuple) -> bool:
    """Whether it is a socket in the file system, which is no host."""
    return event.startswith(("socket.connect", "socket.send")) and isinstance(arguments[-1], (str, bytes))
