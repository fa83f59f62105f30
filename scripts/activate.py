"""Holds the listeners of a proxy while it is restarted, as systemd does with socket units: those of both directions and the admin server's.
Argument: the binary. It prints the outbound and the inbound port, and `started` for each process. A line of standard input restarts the process: it
gets SIGTERM, and the next one starts when it has ended, with the same descriptors. At the end of standard input the process ends, too."""

import fcntl
import os
import signal
import socket
import subprocess
import sys

# The first descriptor that systemd passes.
FIRST = 3
PATIENCE = 60


def hold(count):
    """Listeners on free ports, as the descriptors from FIRST on, and their ports."""
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    # Away from the descriptors that they are to have, which one of the others may have now.
    away = [fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, 100) for listener in listeners]
    for listener in listeners:
        listener.close()
    for at, descriptor in enumerate(away):
        os.dup2(descriptor, FIRST + at)
        os.close(descriptor)
    return ports


def start(app, count):
    variables = {"LISTEN_FDS": str(count), "LISTEN_FDNAMES": "outbound:inbound:admin"}
    # The process id is known to the process alone until it runs.
    command = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$0"', app]
    process = subprocess.Popen(
        command, env=os.environ | variables, stdin=subprocess.DEVNULL, pass_fds=range(FIRST, FIRST + count)
    )
    print("started", process.pid, flush=True)
    return process


def end(process):
    process.send_signal(signal.SIGTERM)
    status = process.wait(PATIENCE)
    if status != 0:
        sys.exit(f"the process ended with {status}")


def main():
    (app,) = sys.argv[1:]
    # So that the process does not outlive this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    count = 3
    outbound, inbound, _ = hold(count)
    print("listening on", outbound, inbound, flush=True)
    process = start(app, count)
    try:
        for _ in sys.stdin:
            end(process)
            process = start(app, count)
        end(process)
    finally:
        process.kill()


main()
