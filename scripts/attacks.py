"""Sums up what scripts/attacks has measured: one file for each round."""

import re
import statistics
import sys
from collections import defaultdict

MEASURED = re.compile(
    r"(\S+) undisturbed ([\d.]+) ms, beside the attack ([\d.]+) ms.* by the clock ([\d.]+) and ([\d.]+) ms$", re.M
)


def main():
    measured = defaultdict(list)
    for path in sys.argv[1:]:
        times = defaultdict(int)
        with open(path, encoding="utf-8") as log:
            for name, *figures in MEASURED.findall(log.read()):
                times[name] += 1
                measured[name, times[name]].append([float(figure) for figure in figures])
    rows = []
    for (name, time), figures in measured.items():
        medians = [statistics.median(column) for column in zip(*figures)]
        rows.append((medians[1] / medians[0], name if time == 1 else f"{name}, again", medians))
    rows.sort(key=lambda row: -row[0])
    rounds = len(sys.argv) - 1
    print(f"\nThe victim's P99, ms{f', medians of {rounds} rounds' if rounds > 1 else ''}:\n")
    print("| ratio | undisturbed | beside | by the clock | attack |\n| ---: | ---: | ---: | ---: | --- |")
    for ratio, name, (before, beside, clock_before, clock_beside) in rows:
        clock = f"{clock_before:.1f}, {clock_beside:.1f}"
        print(f"| {ratio:.2f} | {before:.2f} | {beside:.2f} | {clock} | {name} |")
    within = sum(ratio <= 2 for ratio, _, _ in rows)
    print(f"\n{within} of {len(rows)} are at most twice what they were undisturbed.")
    # A round is short, and the machine may have been busy with others in a few of them.
    if within < 0.8 * len(rows):
        sys.exit("that is less than four fifths")


main()
