"""`make chaos`: kill one `smoke` life at random moments, fifty times, and hold what it ends with against an undisturbed
one: the same artifacts, bit for bit, and no row lost or doubled.

What is killed with SIGKILL is drawn each time: the run's own process (7 of 10), one of its workers (2), Prefect's
server (1). Left out of the comparison is what measures or tells time: the facts `usage`, the stages of the part `cost`,
the speed of the recurrent net, and the moment at which the forecast was sealed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from storage.home import Home
from storage.queries import query

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; sys.argv[0] = 'lifespan'; from flows.commands.cli import app; app()"
# By table, what tells a row apart; times and seconds are free to differ.
IDENTITY = {
    "metrics": "key, step, name, value",
    "evals": "key, suite, model, strategy, item_id, answer, correct, completion_tokens",
    "samples": "key, step, prompt, completion, tokens",
    "preferences": "key, pair_id, prompt, chosen, rejected",
    "scaling_points": "key, sweep, variant, seed, num_params, tokens, loss",
    "scaling_fits": "key, sweep, law, parameter, value",
    "quarantine": "key, source, file, line, reason",
}
TIMED = ("tokens_per_second", "seconds", "memory", "mfu", "timing", "utilization")  # metrics that measure time or place


TIMED_STAGES = ("measure_serving", "compare_recurrent", "forecast_loss")  # the last says when it was sealed


def start(home: Home, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", "smoke"],
            env={**os.environ, "LIFESPAN_HOME": home.root, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def children(pid: int, module: bytes) -> list[int]:
    """Processes of a run that run a certain module."""
    mark = f"LIFESPAN_PARENT={pid}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and module in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kill_one(process: subprocess.Popen[bytes], draw: random.Random) -> str:
    """Kill the run itself or one of its processes; what was hit."""
    what, module = draw.choices(
        [("run", b""), ("worker", b"flows.engine.worker"), ("Prefect", b"prefect.server")], (7, 2, 1)
    )[0]
    targets = children(process.pid, module) if module else [process.pid]
    target = draw.choice(targets) if targets else process.pid
    os.kill(target, signal.SIGKILL)
    return what if targets else "run"


def survive(home: Home, log: Path, kills: int, seed: int, longest: float) -> None:
    """Start the life again and again until it has been killed so many times and has completed."""
    draw, hit = random.Random(seed), Counter[str]()
    while True:
        process = start(home, log)
        while hit.total() < kills:
            pause = draw.uniform(1.0, longest)
            try:
                process.wait(pause)
                break  # it completed, or what was killed ended it
            except subprocess.TimeoutExpired:
                what = kill_one(process, draw)
                hit[what] += 1
                sealed = sum(1 for _ in home.store.records())
                print(f"kill {hit.total():2} after {pause:4.1f} s: {what}; {sealed} artifacts sealed", flush=True)
                if what == "run":
                    process.wait()
                    break
        if process.wait() == 0:
            if hit.total() >= kills:
                print(f"completed after {dict(hit)}")
                return
            print("completed early: made anew from where half of it is gone", flush=True)
            records = sorted(home.store.records(), key=lambda r: (r.created, r.key))
            for record in records[len(records) // 2 :]:
                home.store.remove(record.key)
        elif hit.total() >= kills and process.returncode > 0:
            raise SystemExit(f"the life failed with exit code {process.returncode}; see {log}")


def artifacts(home: Home) -> dict[str, Any]:
    """By key: stage, facts without `usage`, and the checksum of every file; of the part `cost` the stage alone."""
    found = {}
    for record in home.store.records():
        facts = {name: value for name, value in record.artifact.facts.items() if name != "usage"}
        files = {name: entry["sha256"] for name, entry in record.files.items()}
        timed = record.artifact.kind == "cost_report" or record.stage in TIMED_STAGES
        found[record.key] = (record.stage, None if timed else facts, None if timed else files)
    return found


def rows(home: Home, table: str, keys: list[str]) -> Counter[str]:
    """The rows of artifacts that the life ended with, as counted texts."""
    untimed = " AND ".join(f"NOT contains(name, '{word}')" for word in TIMED) if table == "metrics" else "true"
    sql = f"SELECT {IDENTITY[table]} FROM {table} WHERE list_contains($keys, key) AND {untimed}"
    return Counter(json.dumps(row, default=str) for row in query(home, sql, {"keys": keys}).to_pylist())


def differences(calm: Home, killed: Home) -> list[str]:
    """What differs between the two homes, a line each; empty when nothing does."""
    ours, theirs = artifacts(calm), artifacts(killed)
    found = [f"artifact {key[:12]} of {ours[key][0]} is missing" for key in ours if key not in theirs]
    found += [
        f"artifact {key[:12]} of {stage} differs"
        for key, (stage, *_) in ours.items()
        if theirs.get(key, ours[key]) != ours[key]
    ]
    for table in IDENTITY:
        before, after = (rows(home, table, list(ours)) for home in (calm, killed))
        found += [f"{table}: lost {count} × {row[:150]}" for row, count in (before - after).items()]
        found += [f"{table}: too many, {count} × {row[:150]}" for row, count in (after - before).items()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=25.0, help="most seconds between two kills")
    parser.add_argument("--folder", type=Path, default=Path(".lifespan-chaos"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    calm, killed = Home(options.folder / "calm"), Home(options.folder / "killed")
    began = time.monotonic()
    if start(calm, options.folder / "calm.log").wait():
        raise SystemExit(f"the undisturbed life failed; see {options.folder / 'calm.log'}")
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    survive(killed, options.folder / "killed.log", options.kills, options.seed, options.longest)
    found = differences(calm, killed)
    for line in found[:40]:
        print(line)
    same = sum(1 for _ in calm.store.records())
    print(f"{len(found)} differences" if found else f"{same} artifacts and all their rows are the same, bit for bit")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
