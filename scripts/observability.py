"""Reads what scripts/observability has had written: the access log, the metrics page, and Prometheus's answers to each query."""

import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

LOG, PROMETHEUS, PLAIN = pathlib.Path(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
# Seconds after which a wait has failed. It bounds a run, and tests no speed: the machine may be slow.
PATIENCE = 60
ROOT = pathlib.Path(__file__).resolve().parent.parent
# Names that are linkerd2-proxy's, whose units promtool would have in full.
LINKERDS = re.compile(r"^(route_)?response_latency_ms|^tcp_connection_duration_ms")


def lines():
    """The lines of the first requests, in their order, and how many there are of all."""
    found = [json.loads(line) for line in LOG.read_text("ascii").splitlines()]
    asked = {}
    for line in found:
        asked.setdefault((line["path"], line.get("status"), line["method"]), line)
    return asked, len(found)


def access_log():
    asked, count = lines()
    one = asked["/a?b=%22c%22", 200, "GET"]
    assert one["user_agent"] == 'evil "agent"\t\\' and one["trace_id"] == "r-1", one
    assert one["version"] == "HTTP/2.0" and one["route"] == "0/shop" and one["destination"] == "shop", one
    assert one["response_bytes"] == 5 and one["attempts"] == 1 and one["endpoint"], one
    # Less than a minute.
    assert 0 < one["head_ns"] <= one["total_ns"] < 60 * 10**9, one
    assert "proxy_error" not in one and "reset_by" not in one, one
    failing = asked["/failing", 503, "GET"]
    # Of an endpoint, so there is no error of the proxy; and it was sent again.
    assert failing["version"] == "HTTP/1.1" and failing["attempts"] > 1 and "proxy_error" not in failing, failing
    gone = asked["/gone", 502, "GET"]
    assert gone["proxy_error"] == "connect_failed" and "refused" in gone["proxy_error_detail"], gone
    assert gone["attempts"] == 0 and "endpoint" not in gone, gone
    large = asked["/", 431, "GET"]
    assert large["proxy_error"] == "head_too_large", large
    # nginx answers before it reads the body, and a response that has ended ends the request.
    assert asked["/", 200, "POST"]["request_bytes"] in (0, 5)
    assert count > 1_000, count
    print(f"access log: {count} lines, all of JSON")


def metrics():
    text = PLAIN.read_text()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=20)
    complaints = [line for line in (checked.stdout + checked.stderr).splitlines() if not LINKERDS.match(line)]
    assert not complaints, complaints
    print(f"metrics: {len(text.splitlines())} lines, promtool has nothing against them")


def ask(query):
    url = f"http://127.0.0.1:{PROMETHEUS}/api/v1/{query}"
    with urllib.request.urlopen(url, timeout=20) as response:
        return json.load(response)["data"]


def query(expression):
    return ask("query?" + urllib.parse.urlencode({"query": expression}))["result"]


def dashboard():
    panels = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())["panels"]
    count, empty = 0, []
    for panel in panels:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "30s")
            expression = re.sub(r"\$(job|instance|direction)", ".*", expression)
            count += 1
            if not query(expression):
                empty.append(f"{panel['title']}: {expression}")
    assert not empty, empty
    print(f"dashboard: each of {count} queries has data")


def alerts():
    groups = ask("rules?type=alert")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules, groups
    for rule in rules:
        assert rule["health"] == "ok", rule
        # The left side of the comparison alone: whether there is anything to compare.
        for name in set(re.findall(r"\b(?:[a-z0-9]+_)+[a-z0-9]+(?=[{ )\[]|$)", rule["query"])):
            if name in {"group_left", "label_replace", "proxy_error", "endpoint_state"}:
                continue
            assert query(name), f"{rule['name']}: no data for {name}"
    print(f"alerts: {len(rules)} rules are evaluated, and their metrics are there")


def until_scraped():
    """Waits for the scrape after the last one."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if query('count_over_time(up{job="proxy"}[20s]) > 7 and up{job="proxy"} == 1'):
            return
        time.sleep(0.1)
    raise SystemExit(f"Prometheus does not scrape: {query('up')}")


access_log()
metrics()
until_scraped()
dashboard()
alerts()
