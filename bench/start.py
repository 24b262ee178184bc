#!/usr/bin/env python3
"""How soon an edge answers after its start, and how much memory it holds when it is idle.

With a key and a limit, and with everything on (a managed prompt, an index of 5,183 abstracts, scrubbing of all kinds).
Seven cold starts each, in turn: from the start of the process to the first whole answer of a chat completion, and what is
resident ten seconds later, but for the pages of the index, which the kernel shares and takes back. Medians, with the bars
that the project holds itself to; a figure above its bar makes it fail.

    python3 bench/start.py [--sluice target/dist/sluice]
"""

import argparse
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import race

ROOT = race.ROOT
FOLDER = ROOT / "target/bench/start"
STARTS = 7
CONFIG = """\
[server]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
worker_threads = 1
[log]
level = "warn"
[providers.mock]
kind = "openai"
base_url = "http://127.0.0.1:{mock}/v1"
[routes.{route}]
provider = "mock"
model = "m"
"""
KINDS = {"limit": "scrub = []\n", "full": 'prompt = "helper"\ncollections = ["facts"]\nscrub = ["ALL"]\n'}
# Milliseconds; MiB. Everything on holds one vocabulary of tokens.
BARS = {"limit": (100, 24), "full": (400, 48 + 50)}


def resident(pid, folder):
    """MiB: all, and of the index's files."""
    total = index = 0
    of_index = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            of_index = str(folder) in line and "journal" not in line
        elif line.startswith("Rss:"):
            kib = int(line.split()[1])
            total += kib
            index += kib if of_index else 0
    return total / 1024, index / 1024


def start(sluice, kind, port, environment, key):
    """Milliseconds until the first answer; MiB resident without the index, and of the index."""
    data = FOLDER / kind
    body = json.dumps({"model": kind, "messages": [{"role": "user", "content": "Does zinc help against a cold?"}]})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    begun, last = time.monotonic(), "nothing"
    edge = subprocess.Popen([sluice, "serve", "--config", FOLDER / f"{kind}.toml", "--data", data], env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("POST", "/v1/chat/completions", body, headers)
                answer = connection.getresponse()
                last = answer.read()
                if answer.status == 200:
                    break
            except OSError:
                pass
            if time.monotonic() - begun > 20 or edge.poll() is not None:
                sys.exit(f"start.py: the edge does not answer: {last}")
            time.sleep(0.001)
        took = (time.monotonic() - begun) * 1000
        time.sleep(10)
        total, index = resident(edge.pid, data)
        return took, total - index, index
    finally:
        edge.terminate()
        edge.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluice", type=Path, default=ROOT / "target/dist/sluice")
    sluice = parser.parse_args().sluice.resolve()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    port, admin, mock = (race.free_port() for _ in range(3))
    provider = subprocess.Popen([sluice, "mock", "--listen", f"127.0.0.1:{mock}", "--no-record"], stdout=subprocess.DEVNULL)
    try:
        keys = {}
        for kind, more in KINDS.items():
            (FOLDER / f"{kind}.toml").write_text(CONFIG.format(port=port, admin=admin, mock=mock, route=kind) + more)
            run = lambda *arguments: subprocess.run([sluice, "--data", FOLDER / kind, *arguments], check=True, capture_output=True, text=True).stdout
            keys[kind] = json.loads(run("key", "create", "k", "--rpm", "1000000", "--json"))["key"]
            if kind == "full":
                prompt = FOLDER / "helper.jinja"
                prompt.write_text('+++\n[variables.who]\ndefault = "researchers"\n+++\nYou help {{ who }} to check claims.')
                run("prompt", "put", "helper", prompt)
                run("prompt", "deploy", "helper")
                run("ingest", "facts", ROOT / "samples/knowledge/scifact/corpus.jsonl")
            run("publish")
        found = {kind: [] for kind in KINDS}
        for _ in range(STARTS):
            for kind in KINDS:
                found[kind].append(start(sluice, kind, port, dict(os.environ), keys[kind]))
        good = True
        for kind, starts in found.items():
            took, held, index = (statistics.median(values) for values in zip(*starts))
            slowest = max(took for took, *_ in starts)
            good &= took <= BARS[kind][0] and held <= BARS[kind][1]
            print(
                f"{kind}: first answer after {took:.0f} ms (slowest {slowest:.0f}; at most {BARS[kind][0]}), "
                f"{held:.1f} MiB resident (at most {BARS[kind][1]}) and {index:.1f} MiB of the index"
            )
    finally:
        provider.terminate()
        provider.wait()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
