#!/usr/bin/env python3
"""An edge with everything on, half an hour of requests and clients that leave: is its memory flat?

Starts the built-in provider and `sluice up` with a managed prompt, retrieval and scrubbing. Eight clients ask, each
fifty times a second at most: a third plain, two thirds streams, every distinct question a miss of the caches; one in
four leaves before its answer is whole, at a random place. Resident memory is taken every ten seconds. Fails when a
request that was not left fails, or when the median of the last quarter is above that of the second by more than a
twentieth (what fills up to a limit, as caches do, has done so by then).

    python3 bench/soak.py [--minutes 30] [--sluice target/release/sluice]
"""

import argparse
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import race

ROOT = race.ROOT
FOLDER = ROOT / "target/bench/soak"
CONFIG = """\
[server]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
worker_threads = 1
[snapshot]
journal_max_bytes = 8_388_608
[providers.mock]
kind = "openai"
base_url = "http://127.0.0.1:{mock}/v1"
[routes.full]
provider = "mock"
model = "m"
prompt = "helper"
collections = ["facts"]
scrub = ["ALL"]
"""
CLIENTS = 8


def ask(port, key, number, rng, told):
    """One request; it may be left in the middle."""
    stream, leaves = rng.random() < 0.67, rng.random() < 0.25
    text = f"Question {number}: what of trial {rng.randrange(10_000)} and {rng.choice(['zinc', 'insulin', 'mice', 'p53'])}? I am u{number}@example.com."
    body = json.dumps({"model": "full", "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        if leaves and rng.random() < 0.3:
            # Before its body is whole.
            connection.sendall(head + body[: rng.randrange(len(body))])
            told["left"] += 1
            return
        connection.sendall(head + body)
        if leaves:
            connection.settimeout(0.02)
            try:
                connection.recv(rng.randrange(1, 2_000))
            except TimeoutError:
                pass
            told["left"] += 1
            return
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        read = answer.read()
        good = answer.status == 200 and (b"[DONE]" in read if stream else b"choices" in read)
        told["whole" if good else "failed"] += 1
        if not good:
            told["fault"] = (answer.status, read[-300:])


def client(which, port, key, until, told):
    rng = random.Random(which)
    number = which
    while time.monotonic() < until:
        number += CLIENTS
        time.sleep(0.02)
        try:
            ask(port, key, number, rng, told)
        except OSError as error:
            told["failed"] += 1
            told["fault"] = repr(error)


def memory(pid):
    """MiB resident, and of them not mapped from files."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return [int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")]


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--minutes", type=float, default=30)
    flags.add_argument("--sluice", type=Path, default=ROOT / "target/release/sluice")
    flags = flags.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    race.FOLDER.mkdir(parents=True, exist_ok=True)
    # A copy: the program may be built anew meanwhile.
    sluice, data = FOLDER / "sluice", FOLDER / "data"
    shutil.copy2(flags.sluice, sluice)
    run = lambda *arguments: subprocess.run([sluice, "--data", data, *map(str, arguments)], check=True, capture_output=True, text=True).stdout
    prompt = FOLDER / "helper.jinja"
    prompt.write_text("You help researchers. Use what is known, and say where it is from.")
    run("ingest", "facts", ROOT / "samples/knowledge/scifact/corpus.jsonl")
    run("prompt", "put", "helper", prompt)
    run("prompt", "deploy", "helper")
    key = json.loads(run("key", "create", "soak", "--rpm", "100000000", "--json"))["key"]
    port, admin, mock = race.free_port(), race.free_port(), race.free_port()
    (FOLDER / "soak.toml").write_text(CONFIG.format(port=port, admin=admin, mock=mock))
    servers = [
        race.Server("soak-mock", [sluice, "mock", "--listen", f"127.0.0.1:{mock}"], race.LOAD_CORE),
        race.Server("soak", [sluice, "--data", data, "up", "--config", FOLDER / "soak.toml"], race.GATEWAY_CORE),
    ]
    edge = servers[1].process
    try:
        servers[1].wait(port, "/healthz")
        time.sleep(3)
        told = {"whole": 0, "left": 0, "failed": 0}
        begun = time.monotonic()
        until = begun + flags.minutes * 60
        threads = [threading.Thread(target=client, args=(which, port, key, until, told)) for which in range(CLIENTS)]
        for thread in threads:
            thread.start()
        samples = []
        while time.monotonic() < until:
            time.sleep(10)
            samples.append(memory(edge.pid))
            if len(samples) % 12 == 0:
                resident, own = samples[-1]
                print(f"{(time.monotonic() - begun) / 60:5.1f} min  {resident:6.1f} MiB resident, {own:6.1f} its own; {told}", flush=True)
        for thread in threads:
            thread.join()
        assert edge.poll() is None, "it ended"
        quarter = max(len(samples) // 4, 1)
        medians = [[statistics.median(column) for column in zip(*samples[n * quarter:(n + 1) * quarter])] for n in range(4)]
        for n, (resident, own) in enumerate(medians, 1):
            print(f"quarter {n}: {resident:.1f} MiB resident, {own:.1f} its own (medians)")
        print(f"{told['whole']} whole answers, {told['left']} clients left, {told['failed']} failed {told.get('fault', '')}")
        flat = medians[3][0] <= medians[1][0] * 1.05
        print("flat" if flat else "NOT FLAT")
        return 0 if flat and not told["failed"] else 1
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
