"""What a request costs in instructions, allocations and system calls, beside what is recorded in cost.json.

Times depend on the machine and on what else it does; these hardly do. A figure above its tolerance fails: mend the loss, or
record what it buys (`SLUICE_RECORD_COST=1 tests/run test_cost.py`). Steps fail below it, too, so that a gain is recorded;
on a busy machine a server reads several events at once, and its requests may cost less. Instructions depend on what a
processor can do, so they are compared on the kind of processor that they were recorded on.
"""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import fill, note
from harness import ALIVE, BINARY, Edge, Mock, Store, eventually

RECORD = Path(__file__).with_name("cost.json")
# Of the recorded figure. Steps are exact but for the build; a server's requests meet its timers.
TOLERANCE = {"steps": 0.03, "instructions": 0.06, "allocations": 0.06, "system_calls": 0.1}
REQUESTS = 100

CONFIG = """\
[server]
listen = "LISTEN"
admin_listen = "ADMIN"
worker_threads = 1
drain_timeout_seconds = 1

[snapshot]
poll_interval_milliseconds = 60_000

[providers.mock]
kind = "openai"
base_url = "http://MOCK/v1"

[routes.plain]
provider = "mock"
model = "m"
scrub = []

[routes.full]
provider = "mock"
model = "m"
prompt = "support-bot"
collections = ["handbook"]
scrub = ["ALL"]
"""
MESSAGES = [
    {"role": "user", "content": "How long do refunds take? Write to ann@example.com or call +1 415-555-0132."},
    {"role": "assistant", "content": "Five working days. " * 6},
    {"role": "user", "content": "And a parcel to Norway? " + "Please answer in a few words. " * 8},
]
BODIES = {
    "plain": {"model": "plain", "messages": MESSAGES},
    "plain_stream": {"model": "plain", "messages": MESSAGES, "stream": True},
    "full": {"model": "full", "messages": MESSAGES, "sluice": {"variables": {"topic": "tents"}}},
    "full_stream": {"model": "full", "messages": MESSAGES, "stream": True, "sluice": {"variables": {"topic": "tents"}}},
}


@pytest.fixture(scope="module", autouse=True)
def tools():
    for tool in ("valgrind", "callgrind_control", "callgrind_annotate", "strace"):
        assert shutil.which(tool), f"{tool} is needed: apt-get install valgrind strace"


def processor():
    """What libraries choose their instructions by."""
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    return " ".join(sorted(flags & {"sse4_2", "avx2", "bmi2", "fma", "sha_ni"}))


def compare(found):
    """Checks figures against the recorded ones, or records them."""
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    lines = [f"{kind}.{name}: {value:.1f}, recorded {recorded.get(kind, {}).get(name)}" for kind in found for name, value in found[kind].items()]
    note("\n".join(lines))
    if os.environ.get("SLUICE_RECORD_COST"):
        for kind, figures in found.items():
            recorded[kind] = {name: round(value, 1) for name, value in sorted(figures.items())}
        recorded["rustc"], recorded["processor"] = rustc, processor()
        RECORD.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")
        return
    assert recorded.get("rustc") == rustc, f"cost.json was recorded with {recorded.get('rustc')}, this is {rustc}; record anew"
    off = []
    for kind, figures in found.items():
        if kind in ("steps", "instructions") and recorded["processor"] != processor():
            note(f"{kind} are not compared: recorded on `{recorded['processor']}`, this is `{processor()}`")
            continue
        assert set(figures) == set(recorded[kind]), f"cost.json knows other figures of {kind}; record anew"
        for name, value in figures.items():
            before = recorded[kind][name]
            gain = before - value if kind == "steps" else 0
            if max(value - before, gain) > TOLERANCE[kind] * before + 0.5:
                off.append(f"{kind}.{name}: {value:.1f}, recorded {before} ({value / before - 1:+.1%})")
    assert not off, "costs moved: " + "; ".join(off)


@pytest.mark.timeout(300)
def test_steps_cost_what_is_recorded(tmp_path):
    out = tmp_path / "callgrind.out"
    steps = BINARY.with_name("steps")
    assert steps.exists(), f"{steps} is not there; run `cargo build --release --workspace`"
    subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", steps], check=True, capture_output=True)
    said = subprocess.run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", out], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in said.splitlines():
        named = re.match(r"\s*([\d,]+) .*:steps::step::(\w+)(?: \[|$)", line)
        if named:
            # The largest: a function is listed once for each file whose lines it holds.
            found[named[2]] = max(found.get(named[2], 0), int(named[1].replace(",", "")))
    assert len(found) == 7, sorted(found)
    compare({"steps": {name: value / 5 for name, value in found.items()}})


class Counted(Edge):
    """An edge whose instructions are counted, or one as it is."""

    def __init__(self, store, config, tool):
        self.tool = tool
        super().__init__(store, config, command="serve", wait=False)
        self.wait_ready(120)

    def start(self):
        with open(self.log_file, "ab") as log:
            self.child = subprocess.Popen(
                [*self.tool, BINARY, *self.arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        ALIVE.append(self)


def send(edge, key, name, count, **script):
    """So many requests on one connection, each read to its end; `script` says how the provider answers."""
    connection = http.client.HTTPConnection(edge.base, timeout=120)
    body = json.dumps(BODIES[name])
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    if script:
        headers["x-mock"] = json.dumps(script)
    for _ in range(count):
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        read = answer.read()
        assert answer.status == 200, read
    connection.close()


@pytest.fixture(scope="module")
def stored(folder):
    store = Store(folder / "cost")
    fill(store)
    store.counted_key = store.key()
    store.publish()
    return store


@pytest.fixture(scope="module")
def provider(folder):
    mock = Mock(folder)
    yield mock
    mock.stop()


@pytest.mark.timeout(300)
def test_requests_cost_the_instructions_and_allocations_that_are_recorded(stored, provider, tmp_path):
    out = tmp_path / "callgrind.out"
    edge = Counted(
        stored, CONFIG.replace("MOCK/", f"{provider.base}/"),
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--separate-threads=yes"],
    )
    try:
        instructions, allocations = {}, {}
        for name in BODIES:
            send(edge, stored.counted_key, name, 20)
            subprocess.run(["callgrind_control", "--zero", str(edge.pid)], check=True, capture_output=True)
            send(edge, stored.counted_key, name, REQUESTS)
            subprocess.run(["callgrind_control", f"--dump={name}", str(edge.pid)], check=True, capture_output=True)
            dumps = eventually("the dump is written", lambda: written(tmp_path), 30)
            # The one thread that serves; the others wait for time to pass, of which a busy machine needs more.
            total, allocated = max(read_dump(dump) for dump in dumps)
            for dump in tmp_path.glob("callgrind.out.*"):
                dump.unlink()
            instructions[name], allocations[name] = total / REQUESTS, allocated / REQUESTS
    finally:
        edge.stop()
    compare({"instructions": instructions, "allocations": allocations})


def written(folder):
    """The dump's files, one a thread, when all are whole."""
    found = sorted(folder.glob("callgrind.out.*-*"))
    return found if found and all("totals:" in path.read_text() for path in found) else None


def read_dump(dump):
    """Instructions, and calls of the allocator from outside it."""
    text = dump.read_text()
    total = int(re.search(r"^totals: (\d+)", text, re.M)[1])
    names, caller, allocated, callee = {}, "", 0, ""

    def named(written):
        number, _, name = written.partition(" ")
        if name:
            names[number] = name
        return names.get(number, "")

    for line in text.splitlines():
        if line.startswith("fn="):
            caller = named(line[3:])
        elif line.startswith("cfn="):
            callee = named(line[4:])
        elif line.startswith("calls="):
            is_allocation = re.match(r"_?mi_(malloc|zalloc|realloc|calloc)", callee)
            if is_allocation and not re.match(r"_?mi_", caller):
                allocated += int(line[6:].split()[0])
    return total, allocated


@pytest.mark.timeout(300)
def test_requests_make_the_system_calls_that_are_recorded(stored, provider, tmp_path):
    edge = Counted(stored, CONFIG.replace("MOCK/", f"{provider.base}/"), [])
    try:
        calls = {}
        for name in BODIES:
            send(edge, stored.counted_key, name, 20)
            out = tmp_path / f"{name}.strace"
            strace = subprocess.Popen(["strace", "-c", "-o", out, "-p", serving(edge)], stderr=subprocess.PIPE, text=True)
            assert "attached" in strace.stderr.readline()
            time.sleep(0.3)
            # Event by event: what comes at once is read at once, as many as happen to be there.
            send(edge, stored.counted_key, name, REQUESTS, token_milliseconds=1)
            strace.send_signal(signal.SIGINT)
            strace.wait(20)
            rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+)(?: +\d+)? +(\w+)$", out.read_text(), re.M)
            calls[name] = sum(int(count) for count, call in rows if call != "total") / REQUESTS
            assert calls[name] > 2, f"another thread was watched: {out.read_text()}"
    finally:
        edge.stop()
    compare({"system_calls": calls})


def serving(edge):
    """The id of the thread that has used the processor most since the edge was ready: its one worker."""
    def used(task):
        # Nanoseconds; the ticks of `stat` are longer than all of these requests take.
        return int((task / "schedstat").read_text().split()[0])

    tasks = list(Path(f"/proc/{edge.pid}/task").iterdir())
    before = {task: used(task) for task in tasks}
    send(edge, edge.store.counted_key, "plain_stream", 60)
    return max(tasks, key=lambda task: used(task) - before[task]).name
