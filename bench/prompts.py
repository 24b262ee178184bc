#!/usr/bin/env python3
"""Ten thousand prompts in one store: what it takes to bring them in, publish, load and swap them, and to render one.

Makes prompts of 1.2 kB with five variables, imports and deploys them, publishes, and starts an edge (`sluice serve`)
on what was published. Printed are the times, the edge's resident memory with them and after a swap, and beside it an
edge without any; the time from the end of `sluice prompt deploy` to the first answer with the new version behind `sluice
up`; and the step `compose` of `/v1/explain`: the first render of prompts that nobody asked for yet, and later ones.

    python3 bench/prompts.py [--sluice target/dist/sluice] [--prompts 10000]
"""

import argparse
import http.client
import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import race

CONFIG = """\
[server]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
worker_threads = 1
[providers.mock]
kind = "mock"
[routes.ask]
provider = "mock"
model = "m"
scrub = []
"""
VARIABLES = ["goods", "tone", "language", "name", "limits"]


def text(number):
    said = f"You are assistant number {number} of a shop for {{{{ goods }}}}. Be {{{{ tone }}}}, answer in {{{{ language }}}}, and "
    said += "address the customer as {{ name }}. What you must not do: {{ limits }}. "
    rest = f"Rule {number}: say what is known, ask for what is missing, and name the source of whatever you quote. "
    return said + rest * ((1_200 - len(said)) // len(rest) + 1)


class Edge:
    """A running `sluice`, and calls to it."""

    def __init__(self, sluice, folder, data, command):
        self.port, admin = race.free_port(), race.free_port()
        config = folder / f"{command}-{self.port}.toml"
        config.write_text(CONFIG.format(port=self.port, admin=admin))
        log = open(folder / f"{command}-{self.port}.log", "wb")
        begun = time.monotonic()
        self.child = subprocess.Popen([sluice, "--data", data, command, "--config", config], stdout=log, stderr=log)
        while True:
            assert self.child.poll() is None, f"{config} did not start"
            try:
                answer = http.client.HTTPConnection("127.0.0.1", admin, timeout=5)
                answer.request("GET", "/readyz")
                if answer.getresponse().status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.005)
        self.ready = time.monotonic() - begun
        self.connection = None

    def resident(self):
        """MiB."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def explain(self, key, prompt):
        self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        steer = {"prompt": prompt, "variables": {name: f"a {name}" for name in VARIABLES}}
        body = {"model": "ask", "messages": [{"role": "user", "content": "Hello"}], "sluice": steer}
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self.connection.request("POST", "/v1/explain", json.dumps(body), headers)
        answer = self.connection.getresponse()
        said = json.loads(answer.read())
        assert answer.status == 200, said
        return said

    def stop(self):
        self.child.terminate()
        self.child.wait(30)


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--sluice", type=Path, default=Path("target/dist/sluice"))
    flags.add_argument("--prompts", type=int, default=10_000)
    flags = flags.parse_args()
    sluice = flags.sluice.resolve()
    folder = Path("target/bench/prompts").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    files = folder / "files"
    files.mkdir(parents=True)
    declared = "+++\n" + "".join(f"[variables.{name}]\n" for name in VARIABLES) + "+++\n"
    for number in range(flags.prompts):
        (files / f"p{number}.jinja").write_text(declared + text(number))

    def run(data, *arguments):
        begun = time.monotonic()
        done = subprocess.run([sluice, "--data", data, *map(str, arguments)], capture_output=True, text=True, check=True)
        return time.monotonic() - begun, done.stdout

    data, empty = folder / "data", folder / "empty"
    took, _ = run(data, "import", files, "--deploy", "production")
    print(f"import and deployment of {flags.prompts}: {took:.1f} s")
    _, made = run(data, "key", "create", "bench", "--rpm", "100000000", "--json", "--asserts", "explain,prompt,variables")
    key = json.loads(made)["key"]
    took, said = run(data, "publish")
    size = sum(path.stat().st_size for path in (data / "objects").rglob("*") if path.is_file())
    print(f"publication: {took:.2f} s, {size / 1e6:.1f} MB at the location ({said.strip()})")
    run(empty, "key", "create", "bench")
    run(empty, "publish")
    without = Edge(sluice, folder, empty, "serve")
    edge = Edge(sluice, folder, data, "serve")
    print(f"start to ready: {edge.ready * 1000:.0f} ms, {without.ready * 1000:.0f} without prompts")
    print(f"resident: {edge.resident():.0f} MiB, {without.resident():.0f} without prompts")
    without.stop()
    # Each is compiled by its first request.
    sample = [f"p{number}" for number in range(0, flags.prompts, max(flags.prompts // 500, 1))]
    times = {kind: [edge.explain(key, name)["timing_us"]["compose"] for name in sample] for kind in ["first", "warm"]}
    for kind, took in times.items():
        took = sorted(took)
        print(f"{kind} render: p50 {statistics.median(took):.0f} µs, p99 {took[len(took) * 99 // 100]:.0f} µs ({len(took)} prompts)")
    before = edge.resident()
    changed = files / "p0.jinja"
    changed.write_text(declared + "Changed. " + text(0))
    run(data, "prompt", "put", "p0", changed)
    run(data, "prompt", "deploy", "p0")
    run(data, "publish")
    until = time.monotonic() + 30
    while not edge.explain(key, "p0")["body"]["messages"][0]["content"].startswith("Changed."):
        assert time.monotonic() < until, "the change is not in force"
        time.sleep(0.01)
    print(f"resident after rendering {len(sample)} of them: {before:.0f} MiB; after a swap: {edge.resident():.0f}")
    edge.stop()
    up = Edge(sluice, folder, data, "up")
    waits = []
    for number in range(5):
        changed.write_text(declared + f"Change {number}. " + text(0))
        run(data, "prompt", "put", "p0", changed)
        run(data, "prompt", "deploy", "p0")
        begun = time.monotonic()
        while not up.explain(key, "p0")["body"]["messages"][0]["content"].startswith(f"Change {number}."):
            assert time.monotonic() < begun + 30, "the change is not in force"
            time.sleep(0.005)
        waits.append(time.monotonic() - begun)
    print(f"a change in force after its command: {statistics.median(waits):.2f} s (longest {max(waits):.2f}); `sluice up` holds {up.resident():.0f} MiB")
    up.stop()


if __name__ == "__main__":
    os.chdir(Path(__file__).parent.parent)
    main()
