#!/usr/bin/env python3
"""A collection that is written to while it serves: freshness, and what swaps cost requests.

Ingests a file of documents, publishes them and starts the store (`sluice up`)
and an edge (`sluice serve`) that follows it. Requests that recall from the
collection leave at their times all along. Printed are

- answers in rounds without writes and with a write, and so a new snapshot,
  every quarter of a second, in turn: p50 and p99, the median of the rounds;
- documents written at 200 a second through the API: what a write takes, and
  the time from its acknowledgement to the first answer that holds it;
- how often recall was answered from its cache in each part.

    python3 bench/fresh.py --documents target/bench/debian-100000.jsonl

Needs a built sluice (`--sluice`, default target/dist/sluice).
"""

import argparse
import json
import os
import queue
import re
import shutil
import statistics
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import race

CONFIG = """\
[server]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
worker_threads = 1
[snapshot]
location = "file://{objects}"
[providers.mock]
kind = "openai"
base_url = "{provider}"
[routes.ask]
provider = "mock"
model = "m"
collections = ["c"]
scrub = []
"""
STORE_CORE, EDGE_CORE = race.LOAD_CORE, race.GATEWAY_CORE


class Fleet:
    def __init__(self, sluice, documents, store):
        self.sluice, self.folder = sluice, race.FOLDER.parent / "fresh"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        data, own = self.folder / "store", self.folder / "edge"
        begun = time.monotonic()
        if store:
            shutil.copytree(store, data)
        else:
            self.run(data, "ingest", "c", documents)
            self.run(data, "publish")
            print(f"ingest and publication: {time.monotonic() - begun:.0f} s", flush=True)
        made = self.run(data, "key", "create", "fresh", "--rpm", "100000000", "--json", "--asserts", "explain")
        self.key = os.environ["FRESH_KEY"] = json.loads(made)["key"]
        own.mkdir()
        for name in ["pepper", "publisher.pub", "fleet.key"]:
            shutil.copy2(data / name, own / name)
        mock = race.free_port()
        self.servers = [race.Server("fresh-mock", [sluice, "mock", "--listen", f"127.0.0.1:{mock}"], STORE_CORE)]
        self.servers[0].wait(mock)
        self.port, self.admin, self.store_admin = race.free_port(), race.free_port(), race.free_port()
        spare = race.free_port()
        for name, port, admin, folder, command, core in [
            ("up", spare, self.store_admin, data, "up", STORE_CORE),
            ("serve", self.port, self.admin, own, "serve", EDGE_CORE),
        ]:
            file = self.folder / f"{name}.toml"
            file.write_text(CONFIG.format(
                port=port, admin=admin, objects=data.resolve() / "objects", provider=f"http://127.0.0.1:{mock}/v1"
            ))
            server = race.Server(f"fresh-{name}", [sluice, "--data", folder, command, "--config", file], core)
            self.servers.append(server)
            server.wait(admin, "/readyz")
        self.token = (data / "operator.token").read_text().strip()
        eventually(lambda: self.hits("anything at all") is not None, 60)

    def run(self, data, *arguments):
        return race.run(self.sluice, "--data", data, *arguments)

    def stop(self):
        for server in reversed(self.servers):
            server.stop()

    def post(self, port, path, key, body):
        head = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), head)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.load(answer)

    def write(self, number):
        """Writes a document and gives when it was acknowledged, and how long that took."""
        begun = time.monotonic()
        text = f"The qz{number}v is kept in room {number} of the museum, and nobody has asked for it since."
        body = {"documents": [{"id": f"fresh-{number}", "text": text}]}
        self.post(self.store_admin, "/api/v1/collections/c/documents", self.token, body)
        return time.monotonic(), time.monotonic() - begun

    def hits(self, question):
        body = {"model": "ask", "messages": [{"role": "user", "content": question}]}
        try:
            answer = self.post(self.port, "/v1/explain", self.key, body)
        except OSError:
            return None
        return [hit["id"] for hit in answer["context"]["hits"]]

    def metric(self, pattern):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            found = re.search(rf"^{pattern} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def cache(self):
        return [self.metric(rf'sluice_recall_cache_total{{result="{result}"}}') for result in ("hit", "miss")]

    def load(self, questions, requests, rate):
        """Requests at `rate` a second through the edge; gives p50 and p99 in milliseconds and how many failed."""
        out = self.folder / "load.json"
        subprocess.run(
            ["taskset", "-c", race.LOAD_CORE, self.sluice, "bench", "--rate", str(rate), "--requests", str(requests),
             "--rounds", "1", "--replay", questions, "--json", out,
             "--target", f"edge=http://127.0.0.1:{self.port}/v1,key-env=FRESH_KEY,model=ask"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        told = json.loads(out.read_text())["targets"][0]
        times = told["total_us"]
        return times["p50"] / 1e3, times["p99"] / 1e3, told["requests"] - told["good"]


def eventually(look, seconds):
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds} seconds")
        # Four that ask more often would take a good part of a core.
        time.sleep(0.03)
    return time.monotonic()


def rank(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def questions(documents, file, count, start=0):
    """Ten words out of documents spread over all of them; those of another `start` are others."""
    with open(file, "w") as out:
        for place in range(count):
            words = json.loads(documents[(start + place * 7919) % len(documents)])["text"].split()
            body = {"model": "ask", "messages": [{"role": "user", "content": " ".join(words[5 + start % 7 :][:10])}]}
            out.write(json.dumps(body) + "\n")
    return file


def hit_rate(before, after):
    hit, miss = (late - early for early, late in zip(before, after))
    return f"{100 * hit / max(1, hit + miss):.0f} % of {hit + miss:.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="a data folder that holds them as collection `c` already, to be copied")
    parser.add_argument("--sluice", type=Path, default=race.SLUICE)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--writes", type=int, default=10_000)
    given = parser.parse_args()
    race.FOLDER.mkdir(parents=True, exist_ok=True)
    fleet = Fleet(given.sluice.resolve(), given.documents.resolve(), given.store)
    try:
        documents = given.documents.read_text().splitlines()
        swaps(fleet, documents, given)
        freshness(fleet, documents, given)
    finally:
        fleet.stop()


def swaps(fleet, documents, given):
    """Questions are asked once each, so that none is answered from the cache in either kind of round."""
    count, file = 5 * given.rate, fleet.folder / "questions.jsonl"
    fleet.load(questions(documents, file, count, 1), count, given.rate)
    rounds, number = {"quiet": [], "swapping": []}, 0
    for _ in range(given.rounds):
        for kind, figures in rounds.items():
            over, begun, cache = threading.Event(), fleet.metric("sluice_snapshot_epoch"), fleet.cache()

            def write(first):
                while not over.wait(0.25):
                    fleet.write(first)
                    first += 1

            writer = threading.Thread(target=write, args=(1_000_000 + number,))
            number += 1_000
            asked = questions(documents, file, count, number)
            if kind == "swapping":
                writer.start()
            measured = fleet.load(asked, count, given.rate)
            over.set()
            if kind == "swapping":
                writer.join()
            swapped = fleet.metric("sluice_snapshot_epoch") - begun
            figures.append((*measured, swapped, hit_rate(cache, fleet.cache())))
            time.sleep(1)
    for kind, figures in rounds.items():
        p50, p99 = (statistics.median(row[place] for row in figures) for place in (0, 1))
        print(f"{kind}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, {statistics.median(row[3] for row in figures):.0f} swaps "
              f"a round, {sum(row[2] for row in figures)} failed, from the cache {figures[-1][4]}")
    ratios = [swapping[1] / quiet[1] for quiet, swapping in zip(rounds["quiet"], rounds["swapping"])]
    print(f"p99 swapping / quiet: {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})", flush=True)


def freshness(fleet, documents, given):
    """Beside writes, 500 questions come again and again."""
    asked = questions(documents, fleet.folder / "questions.jsonl", 500)
    seconds = given.writes / given.rate
    load = threading.Thread(target=fleet.load, args=(asked, int(given.rate * seconds), given.rate))
    cache, probes, took, waits = fleet.cache(), queue.Queue(), [], []

    def probe():
        while (item := probes.get()) is not None:
            number, acknowledged = item
            waits.append(eventually(lambda: f"fresh-{number}" in (fleet.hits(f"Where is the qz{number}v?") or []), 30) - acknowledged)

    def write(number):
        acknowledged, lasted = fleet.write(number)
        took.append(lasted)
        if number % 50 == 0:
            probes.put((number, acknowledged))

    probers = [threading.Thread(target=probe) for _ in range(4)]
    for thread in [load, *probers]:
        thread.start()
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as writers:
        for number in range(given.writes):
            time.sleep(max(0.0, begun + number / given.rate - time.monotonic()))
            writers.submit(write, number)
    lasted = time.monotonic() - begun
    load.join()
    for _ in probers:
        probes.put(None)
    for thread in probers:
        thread.join()
    print(f"{len(took)} of {given.writes} writes acknowledged, {len(took) / lasted:.0f} a second: "
          f"p50 {rank(took, .5) * 1e3:.1f} ms, p99 {rank(took, .99) * 1e3:.0f} ms")
    print(f"from acknowledgement to the first answer ({len(waits)} probes): p50 {rank(waits, .5) * 1e3:.0f} ms, "
          f"p99 {rank(waits, .99) * 1e3:.0f} ms, at most {max(waits) * 1e3:.0f} ms; from the cache {hit_rate(cache, fleet.cache())}")
    missing = [number for number in range(0, given.writes, 97) if f"fresh-{number}" not in (fleet.hits(f"Where is the qz{number}v?") or [])]
    print(f"of every 97th document {len(missing)} are not found")


if __name__ == "__main__":
    main()
