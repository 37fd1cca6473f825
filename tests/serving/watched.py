"""`python watched.py LOG arguments`: runs `vilg arguments`, and writes each attempted connection into LOG."""

import sys

from vilg.cli import main

log = open(sys.argv[1], "a", buffering=1, encoding="utf-8")


def watch(event: str, arguments: tuple) -> None:
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        log.write(f"{event} {arguments[1:] if event == 'socket.connect' else arguments}\n")


if __name__ == "__main__":
    sys.addaudithook(watch)
    sys.exit(main(sys.argv[2:]))
