"""What every test stands on: the binary's processes, a data folder, a raw HTTP client.

Kept apart from the fixtures so that a test can start a server of its own with the same few lines.
Knows the outward contract (command line, configuration, HTTP) and nothing about Sluice's inside.
"""

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
BINARY = Path(os.environ.get("SLUICE_BIN", ROOT / "target/release/sluice")).resolve()
SAMPLES = ROOT / "samples"
CORPUS = SAMPLES / "knowledge/scifact/corpus.jsonl"

# The key that the provider is called with; it must never be seen by a client or in a log.
PROVIDER_KEY = "provider-secret-7f3a"
ALL_ASSERTS = "variables,prompt,environment,collections,context_tokens,filter,explain,session,subject,agent"

# Every process that is up, so that a failed test can print what the servers said.
ALIVE = []


# Each worker has numbers of its own, below those that the kernel gives to outgoing connections; none is given twice, so that
# a port stays free until the server that it is for listens, and one at which nothing listens stays closed.
PORTS = itertools.count(os.getpid() % 5_000)
FIRST_PORT = 10_000 + 5_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def free_port():
    for number in PORTS:
        port = FIRST_PORT + number % 5_000
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def eventually(what, look, seconds=10.0, every=0.02):
    """Waits until `look` gives something true, and gives that back."""
    end = time.monotonic() + seconds
    seen = None
    while True:
        try:
            seen = look()
        except (OSError, http.client.HTTPException) as error:
            seen = error
        else:
            if seen:
                return seen
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}; last seen: {seen!r}")
        time.sleep(every)


def files_below(folder):
    """Each file's path and content. What a server takes away meanwhile, as it renames or removes it, is left out."""
    for where, _, names in os.walk(folder):
        for path in (Path(where) / name for name in names):
            try:
                yield path, path.read_bytes()
            except FileNotFoundError:
                continue


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        """The assistant's text of a plain chat completion."""
        return self.json()["choices"][0]["message"]["content"]

    @property
    def error(self):
        return self.json()["error"]

    @property
    def events(self):
        """The data of each server-sent event, `[DONE]` included."""
        blocks = self.body.decode().replace("\r\n", "\n").split("\n\n")
        return [b[len("data: "):] for b in blocks if b.startswith("data: ")]

    @property
    def streamed_text(self):
        return "".join(
            choice["delta"].get("content") or ""
            for event in self.events
            if event != "[DONE]"
            for choice in json.loads(event).get("choices", [])
        )

    @property
    def streamed_arguments(self):
        return "".join(
            call["function"].get("arguments") or ""
            for event in self.events
            if event != "[DONE]"
            for choice in json.loads(event).get("choices", [])
            for call in choice["delta"].get("tool_calls") or []
        )


def request(base, method, path, body=None, headers=None, timeout=20):
    """One request on its own connection; the body's bytes go out exactly as given."""
    connection = http.client.HTTPConnection(base, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        read = answer.read()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, read)
    finally:
        connection.close()


class Process:
    """A running binary whose output goes to a file, ended by its pid."""

    def __init__(self, name, arguments, folder, environment=None):
        self.name = name
        self.arguments = [str(a) for a in arguments]
        self.environment = {**os.environ, "MOCK_API_KEY": PROVIDER_KEY, **(environment or {})}
        folder.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / f"{name}-{uuid.uuid4().hex[:6]}.log"
        self.start()

    def start(self):
        with open(self.log_file, "ab") as log:
            self.child = subprocess.Popen(
                [BINARY, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        ALIVE.append(self)

    @property
    def pid(self):
        return self.child.pid

    def log(self):
        return self.log_file.read_text(errors="replace")

    def must_run(self):
        if self.child.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.child.returncode}:\n{self.log()}")

    def stop(self, kill=False):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(5)
        if self in ALIVE:
            ALIVE.remove(self)

    def resident_kib(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


class Mock(Process):
    """The provider mock on its own port."""

    def __init__(self, folder, **flags):
        self.base = f"127.0.0.1:{free_port()}"
        more = [part for k, v in flags.items() for part in (f"--{k.replace('_', '-')}", v)]
        super().__init__("mock", ["mock", "--listen", self.base, *more], folder)
        eventually("the mock answers", lambda: self.must_run() or self.stats(), 20)

    def stats(self):
        return request(self.base, "GET", "/mock/stats").json()

    def requests(self):
        return request(self.base, "GET", "/mock/requests").json()

    def clear(self):
        assert request(self.base, "DELETE", "/mock/requests").status < 300

    def script(self, **fields):
        answer = request(self.base, "POST", "/mock/script", json.dumps(fields))
        assert answer.status < 300, answer

    def received(self, mark):
        """The one request that carried `x-custom: mark`."""
        found = [r for r in self.requests() if r["headers"].get("x-custom") == mark]
        assert len(found) == 1, f"{len(found)} requests with {mark}: {found}"
        return found[0]


# The beginning of a test's configuration that goes through the mock with a provider's key.
BEHIND_MOCK = """\
[server]
listen = "LISTEN"
admin_listen = "ADMIN"
drain_timeout_seconds = 1

[providers.mock]
kind = "openai"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"
"""


class FakeProvider(ThreadingHTTPServer):
    """Answers JSON with what `answer` makes of it, slowly or with another status where a test says so, and remembers what
    it was asked."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.keys, self.delay, self.status = [], set(), 0.0, 200
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.base = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, body):
        """The status and the answer to `body`."""
        raise NotImplementedError


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        self.server.keys.add(self.headers["authorization"])
        time.sleep(self.server.delay)
        status, answer = self.server.answer(body)
        answer = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Store:
    """A data folder and the command line on it."""

    def __init__(self, folder, url=None):
        """`url` names a PostgreSQL database; SQLite in the folder without it."""
        self.folder = Path(folder)
        self.environment = {"SLUICE_STORE": url} if url else {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scratch = self.folder.parent / f"{self.folder.name}-files"
        self.scratch.mkdir(exist_ok=True)

    def run(self, *arguments, code=0, environment=None, said=""):
        """`said` is its standard input."""
        done = subprocess.run(
            [BINARY, "--data", self.folder, *[str(a) for a in arguments]],
            capture_output=True,
            text=True,
            timeout=80,
            input=said,
            env={**os.environ, "MOCK_API_KEY": PROVIDER_KEY, **self.environment, **(environment or {})},
        )
        assert code is None or done.returncode == code, (
            f"sluice {' '.join(map(str, arguments))} ended with {done.returncode}, wanted {code}\n"
            f"{done.stdout}\n{done.stderr}"
        )
        return done

    def key(self, name=None, **options):
        """Makes a key and gives its secret; `rpm` is out of the way unless a test sets it."""
        return self.key_record(name, **options)["key"]

    def key_record(self, name=None, **options):
        options.setdefault("rpm", 1_000_000)
        name = name or f"key-{uuid.uuid4().hex[:8]}"
        more = [p for k, v in options.items() for p in (f"--{k.replace('_', '-')}", v)]
        return json.loads(self.run("key", "create", name, "--json", *more).stdout)

    def put(self, alias, text, deploy=True, environment="production"):
        file = self.scratch / f"{alias}-{uuid.uuid4().hex[:6]}.jinja"
        file.write_text(text)
        said = self.run("prompt", "put", alias, file).stdout
        if deploy:
            self.run("prompt", "deploy", alias, "--environment", environment)
        return int(re.search(rf"{re.escape(alias)} version (\d+)", said)[1])

    def ingest(self, collection, *paths):
        return json.loads(self.run("ingest", collection, *paths, "--json").stdout)

    def ingest_texts(self, collection, **documents):
        folder = self.scratch / f"{collection}-{uuid.uuid4().hex[:6]}"
        folder.mkdir()
        for name, text in documents.items():
            (folder / f"{name}.md").write_text(text)
        return self.ingest(collection, folder)

    def publish(self):
        return int(re.search(r"epoch (\d+)", self.run("publish").stdout)[1])


class Edge(Process):
    """A running `up` or `serve`, and requests to it."""

    def __init__(self, store, config, command="up", environment=None, wait=True, scheme="http"):
        self.store = store
        self.base = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.config_file = store.scratch / f"edge-{uuid.uuid4().hex[:6]}.toml"
        self.write_config(config)
        super().__init__(
            command,
            [command, "--config", self.config_file, "--data", store.folder],
            store.scratch,
            {**store.environment, **(environment or {})},
        )
        self.url = f"{scheme}://{self.base}/v1"
        if wait:
            self.wait_ready()

    def write_config(self, config):
        # The addresses are the harness's to choose, so a config names them with these two words.
        text = config.replace("LISTEN", self.base).replace("ADMIN", self.admin)
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.config_file)

    def wait_ready(self, seconds=20):
        def ready():
            self.must_run()
            # Until the vocabulary is loaded tokens are estimates, which a test that counts them cannot use.
            answer = request(self.admin, "GET", "/readyz")
            return answer.status == 200 and not answer.json()["estimates_tokens"] and self.listens()

        eventually(f"{self.name} is ready", ready, seconds)

    def listens(self):
        with socket.create_connection(self.base.split(":"), timeout=2):
            return True

    def restart(self, kill=False):
        self.stop(kill)
        self.start()

    def metrics(self):
        return request(self.admin, "GET", "/metrics").body.decode()

    def metric(self, name, **labels):
        """The value of one sample, 0 where it is not there."""
        for line in self.metrics().splitlines():
            found = re.match(rf"{name}(?:\{{(.*)\}})? (\S+)$", line)
            if found and dict(re.findall(r'(\w+)="([^"]*)"', found[1] or "")) == labels:
                return float(found[2])
        return 0.0

    def epoch(self):
        return request(self.admin, "GET", "/readyz").json()["epoch"]

    def send(self, method, path, body=None, key=None, headers=None, timeout=20):
        headers = {"content-type": "application/json", **(headers or {})}
        if key:
            headers["authorization"] = f"Bearer {key}"
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        return request(self.base, method, path, body, headers, timeout)

    def chat(self, key, body, mock=None, mark=None, headers=None, timeout=20):
        """A chat completion; `mock` scripts the provider for this request alone."""
        headers = dict(headers or {})
        if mock is not None:
            headers["x-mock"] = json.dumps(mock)
        if mark is not None:
            headers["x-custom"] = mark
        return self.send("POST", "/v1/chat/completions", body, key, headers, timeout)

    def api(self, method, path, body=None):
        """A call of the store's API with everybody's token."""
        token = (self.store.folder / "operator.token").read_text().strip()
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        return request(self.admin, method, f"/api/v1/{path}", None if body is None else json.dumps(body), headers)

    def wait_key(self, key, seconds=10):
        """Waits until the edge serves a snapshot that has this key."""
        def known():
            return self.send("GET", "/v1/models", key=key).status in (200, 429)

        eventually("the key is known to the edge", known, seconds)
        return key

    def new_key(self, name=None, **options):
        return self.wait_key(self.store.key(name, **options))


def at_another_time(offset):
    """The environment of a process whose clock is off; durations stay what they are."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def user(text, **more):
    return {"messages": [{"role": "user", "content": text}], **more}


def mark():
    return f"mark-{uuid.uuid4().hex}"


def open_chat(edge, key, body, mock=None, receive_buffer=None, headers=None):
    """Sends a chat completion on a raw socket and gives the socket, unread."""
    body = json.dumps(body).encode()
    head = {
        "host": edge.base,
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "content-length": len(body),
        **({"x-mock": json.dumps(mock)} if mock is not None else {}),
        **(headers or {}),
    }
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect((edge.base.split(":")[0], int(edge.base.split(":")[1])))
    lines = ["POST /v1/chat/completions HTTP/1.1", *[f"{k}: {v}" for k, v in head.items()]]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return connection


def raw(base, data, timeout=10):
    """Sends bytes and reads until the server closes or falls silent; gives the bytes."""
    host, port = base.split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(data)
        return read_answer(connection)


def read_head(connection):
    read = b""
    while b"\r\n\r\n" not in read:
        more = connection.recv(65536)
        if not more:
            break
        read += more
    return read


def read_answer(connection):
    """One HTTP/1.1 answer by content-length, or everything until the end."""
    read = read_head(connection)
    head, _, body = read.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.I)
    while length is None or len(body) < int(length[1]):
        more = connection.recv(65536)
        if not more:
            break
        body += more
    return head + b"\r\n\r\n" + body


def copy_tree(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
