"""Ports of loopback for servers that can't take port 0; as a script, prints one.

The kernel gives ports of its own range to sockets that bind port 0, and to connections of any process, so that one of that range can
be taken before its server binds it. These are below that range as Linux has it (32768 to 60999), and are given in turn to all scripts
of a user: none gets the same one again soon.
"""

import fcntl
import os
import pathlib
import random
import socket
import tempfile

FIRST, LAST = 12_000, 31_999


def free_port():
    with open(pathlib.Path(tempfile.gettempdir()) / f"proxy-scripts-{os.getuid()}.port", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        last = file.read()
        # Other users and machines with the same network begin elsewhere.
        start = int(last) if last.isdigit() else random.randint(FIRST, LAST)
        count = LAST - FIRST + 1
        ports = (FIRST + (start - FIRST + step) % count for step in range(1, count + 1))
        port = next(filter(is_free, ports), None)
        if port is None:
            raise SystemExit(f"none of the ports {FIRST} to {LAST} is free")
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
