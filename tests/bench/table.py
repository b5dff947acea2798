#!/usr/bin/env python3
"""Makes the benchmark's table out of one JSON object per target.

table.py RESULTS [NOTES]: RESULTS/NAME.json each hold rows and values, NOTES is appended as it is.
"""
import json
import os
import platform
import sys

COLUMNS = [
    ("mooseng", "MooseNG, QUIC"),
    ("mooseng-before", "before, QUIC"),
    ("mooseng-tcp", "MooseNG, TCP"),
    ("moosefs", "MooseFS as installed"),
    ("moosefs-durable", "MooseFS, durable"),
    ("nullfs", "FUSE that does nothing"),
    ("bare", "bare directory"),
]
RATIOS = [("mooseng-before", "÷ before"), ("moosefs", "÷ MooseFS"), ("moosefs-durable", "÷ durable"), ("nullfs", "÷ FUSE")]


def number(value):
    return "" if value is None else f"{value:,.0f}".replace(",", " ")


def main():
    results = sys.argv[1]
    data = {}
    for name, _ in COLUMNS:
        path = os.path.join(results, name + ".json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                data[name] = json.load(f)
    columns = [c for c in COLUMNS if c[0] in data]
    ratios = [r for r in RATIOS if r[0] in data and "mooseng" in data]
    rows = list(next(iter(data.values())))
    print("# Benchmark\n")
    print("Made by `tests/bench/run.sh`: all columns in one run, one after the other, on the same disk.")
    print("Two copies, one chunkserver disk each; MB/s in the rows with 1M, operations per second in the others;")
    print("the rows with 1M are the median of three.")
    print(f"Linux {platform.release()}, {os.cpu_count()} CPUs.\n")
    head = ["row"] + [title for _, title in columns] + [title for _, title in ratios]
    print("| " + " | ".join(head) + " |")
    print("|---" + "|---:" * (len(head) - 1) + "|")
    for row in rows:
        cells = [row] + [number(data[name].get(row)) for name, _ in columns]
        ours = data.get("mooseng", {}).get(row)
        for name, _ in ratios:
            theirs = data[name].get(row)
            cells.append(f"{ours / theirs:.2f}" if ours is not None and theirs else "")
        print("| " + " | ".join(cells) + " |")
    if len(sys.argv) > 2 and os.path.exists(sys.argv[2]):
        print()
        with open(sys.argv[2], encoding="utf-8") as f:
            print(f.read(), end="")


if __name__ == "__main__":
    main()
