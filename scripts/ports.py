"""Ports of loopback for servers that can't take port 0; as a script, prints one.

The kernel gives ports of its own range to sockets that bind port 0, and to connections of any process, so that one of that range can
be taken before its server binds it. These are below that range, and are given in turn to all scripts of a user: none gets the same
one again soon.
"""

import fcntl
import os
import pathlib
import socket
import tempfile

FIRST, LAST = 12_000, 31_999


def free_port():
    with open(pathlib.Path(tempfile.gettempdir()) / f"proxy-scripts-{os.getuid()}.port", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        port = int(file.read() or LAST)
        while True:
            port = port + 1 if port < LAST else FIRST
            if is_free(port):
                break
        file.truncate(0)
        file.write(str(port))
        return port


def is_free(port):
    with socket.socket() as probe:
        try:
            # Without SO_REUSEADDR, which a server may not set either.
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


if __name__ == "__main__":
    print(free_port())
