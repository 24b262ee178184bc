"""Every resource of openai-python works through Sluice as it does without: its own tests, run twice.

What these tests ask for, and where they come from, is in openai_resources/README.md.
"""

import lzma
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree

import pytest

from conftest import note
from harness import ALIVE, PROVIDER_KEY, ROOT, TESTS, Edge, Process, Store, eventually, free_port, request

HERE = TESTS / "openai_resources"
KEPT = ROOT / "target/tests/openai_resources"
STEADY = TESTS / "node/node_modules/@stdy/cli/steady.js"
# As openai-python's scripts/mock starts it.
STEADY_FLAGS = [
    f"--validator-{where}-{what}-format=brackets" for where in ("query", "form") for what in ("array", "object")
]

CONFIG = """\
[server]
listen = "LISTEN"
admin_listen = "ADMIN"
worker_threads = 2

[providers.steady]
kind = "openai"
base_url = "http://STEADY"
api_key_env = "MOCK_API_KEY"

[routes."*"]
provider = "steady"
scrub = []
"""


class Steady(Process):
    """The mock server that openai-python is tested with, on its OpenAPI document."""

    def __init__(self, folder):
        document = folder / "openapi.yml"
        document.write_bytes(lzma.open(HERE / "openapi.yml.xz").read())
        self.base = f"127.0.0.1:{free_port()}"
        host, port = self.base.split(":")
        super().__init__("steady", [STEADY, "--host", host, "-p", port, "-q", *STEADY_FLAGS, document], folder)
        eventually("Steady answers", self.answers, 40)

    def start(self):
        with open(self.log_file, "ab") as log:
            self.child = subprocess.Popen(["node", *self.arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ALIVE.append(self)

    def answers(self):
        self.must_run()
        return request(self.base, "GET", "/_x-steady/health").status == 200


def source_distribution():
    """The unpacked source distribution of openai-python, fetched once."""
    unpacked = KEPT / "openai-3.3.1"
    if not unpacked.is_dir():
        KEPT.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "--no-deps", "--no-binary=:all:", "--require-hashes", "-r", HERE / "requirements.txt", "-d", KEPT],
            check=True,
            timeout=300,
        )
        with tarfile.open(KEPT / "openai-3.3.1.tar.gz") as archive:
            archive.extractall(KEPT / "unpacking", filter="data")
        (KEPT / "unpacking/openai-3.3.1").rename(unpacked)
    return unpacked


def run_theirs(source, name, base_url, *options, **environment):
    """Runs openai-python's tests against a base URL; gives each test's outcome by its full name."""
    report = KEPT / f"{name}.xml"
    report.unlink(missing_ok=True)
    with open(KEPT / f"{name}.log", "w") as log:
        subprocess.run(
            [sys.executable, "-m", "pytest", "tests/api_resources", "-n", "2", "--quiet", "-p", "no:cacheprovider"]
            + [f"--junitxml={report}", *options],
            cwd=source,
            env={**os.environ, "PYTHONPATH": f"src:{HERE}", "TEST_API_BASE_URL": base_url, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=280,
        )
    assert report.exists(), (KEPT / f"{name}.log").read_text()[-2000:]
    return {f"{case.get('classname')}::{case.get('name')}": outcome(case) for case in
            ElementTree.parse(report).iter("testcase")}


def outcome(case):
    """`passed`, `skipped`, or the first line of what went wrong."""
    wrong = [child for child in case if child.tag in ("failure", "error")]
    if wrong:
        return f"failed: {(wrong[0].get('message') or '').splitlines()[0][:300]}"
    return "skipped" if case.find("skipped") is not None else "passed"


def totals(outcomes):
    kinds = [kind.partition(":")[0] for kind in outcomes.values()]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("passed", "failed", "skipped"))


@pytest.mark.timeout(900)
def test_no_test_of_openai_python_fails_only_through_sluice(tmp_path, started):
    source = source_distribution()
    steady = started(Steady(tmp_path))
    edge = started(Edge(Store(tmp_path / "data"), CONFIG.replace("STEADY", steady.base)))
    key = edge.new_key(rpm=1_000_000_000)

    direct = run_theirs(source, "direct", f"http://{steady.base}")
    through = run_theirs(source, "through", edge.url, "-p", "sluice_key", SLUICE_KEY=key)

    note(f"openai-python's resource tests, direct: {totals(direct)}; through Sluice: {totals(through)}")
    worse = [
        f"{test}: {through.get(test, 'not run')}"
        for test, was in direct.items()
        if was == "passed" and through.get(test) != "passed"
    ]
    assert not worse, f"{len(worse)} tests fail only through Sluice:\n" + "\n".join(worse)
    # Otherwise the comparison would hold for tests that never ran or never came this way.
    assert sum(was == "passed" for was in direct.values()) > 6_000
    assert edge.metric("sluice_requests_total", route="*", status_class="2xx") > 3_000
    assert PROVIDER_KEY not in (KEPT / "through.log").read_text()
