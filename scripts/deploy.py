"""Checks the environments and the periods of deploy/; scripts/deploy starts this."""

import os
import pathlib
import re
import subprocess
import sys

import yaml

app, work = sys.argv[1], pathlib.Path(sys.argv[2])
PREFIX = "LINKERD2_PROXY_"
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def seconds(duration):
    count, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()
    return int(count) * UNITS[unit]


def check(name, variables):
    """The environment is valid, as a whole and without a warning."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    done = subprocess.run([app, "check"], env=env | variables, capture_output=True, text=True)
    # The descriptors that this machine allows are no fault of the file.
    complaints = [line for line in done.stderr.splitlines() if "_MAX_CONNECTIONS: " not in line]
    assert done.returncode == 0 and not complaints, f"{name}: {done.stderr}"
    print(f"{name}: {len(variables)} variables are valid")


def ends_in_time(name, variables, killed_after):
    """The process is not killed before its periods are over, which are followed by two seconds for resets at most."""
    periods = [variables[f"{PREFIX}SHUTDOWN_{period}_PERIOD"] for period in ("LAME_DUCK", "GRACE")]
    needed = sum(map(seconds, periods)) + 2
    assert needed < killed_after, f"{name}: {needed} s to end, and killed after {killed_after} s"


def unit():
    lines = pathlib.Path("deploy/systemd/app.env").read_text().splitlines()
    set_ = dict(line.split("=", 1) for line in lines if line.startswith(PREFIX))
    check("app.env", set_)
    proposed = dict(line[1:].split("=", 1) for line in lines if line.startswith("#" + PREFIX))
    known = subprocess.run([app, "env"], capture_output=True, text=True).stdout
    unknown = [name for name in proposed if not re.search(rf"\b{name}\b", known)]
    assert proposed and not unknown, unknown
    stop = re.search(r"^TimeoutStopSec=(\d+)$", pathlib.Path("deploy/systemd/app.service").read_text(), re.M)
    ends_in_time("app.service", set_, int(stop[1]))
    # A socket without a name is found by its address.
    listening = re.findall(r"^ListenStream=(.+)$", pathlib.Path("deploy/systemd/app.socket").read_text(), re.M)
    configured = [value for name, value in set_.items() if name.endswith("_LISTEN_ADDR")]
    assert sorted(listening) == sorted(configured), f"app.socket: {listening}, and app.env: {configured}"


def manifest(path):
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    files = {}
    for document in documents:
        if document["kind"] == "ConfigMap":
            for name, text in document["data"].items():
                (work / name).write_text(text)
                files[f"/etc/app/{name}"] = str(work / name)
    checked = 0
    for document in documents:
        if document["kind"] != "Deployment":
            continue
        pod = document["spec"]["template"]["spec"]
        for container in pod.get("initContainers", []) + pod["containers"]:
            if container["name"] != "proxy":
                continue
            variables = {one["name"]: one["value"] for one in container["env"]}
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            admin = variables[f"{PREFIX}ADMIN_LISTEN_ADDR"]
            assert admin == f"0.0.0.0:{ports['admin']}", f"{path}: probes cannot reach {admin}"
            for probe in ("livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] == "admin", f"{path}: {probe}"
            ends_in_time(path, variables, pod["terminationGracePeriodSeconds"])
            check(path, {name: files.get(value, value) for name, value in variables.items()})
            checked += 1
    assert checked == 1, f"{path} has {checked} proxies"


unit()
for path in sorted(pathlib.Path("deploy/kubernetes").glob("*.yaml")):
    manifest(path)
