"""The servers that most tests share: one mock, one `up` with a small store, a key that may all."""

from pathlib import Path

import pytest

import harness
from harness import ALIVE, ALL_ASSERTS, Edge, Mock, Store, free_port
from servers import Postgres

SUPPORT_BOT = """\
+++
[variables.topic]
description = "What the shop sells."
[variables.tone]
default = "brief"
+++
You answer about {{ topic }}. Be {{ tone }}."""
SUPPORT_BOT_RENDERED = "You answer about tents. Be brief."

CONFIG = """\
[server]
listen = "LISTEN"
admin_listen = "ADMIN"
worker_threads = 2
drain_timeout_seconds = 1

[log]
level = "debug"

[providers.mock]
kind = "openai"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0

[providers.impatient]
kind = "openai"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0
header_timeout_seconds = 1
idle_timeout_seconds = 1

[providers.refusing]
kind = "openai"
base_url = "http://CLOSED/v1"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0

[routes.support-bot]
provider = "mock"
retries = 0
model = "gpt-4o-mini"
prompt = "support-bot"
collections = ["handbook"]
context_tokens = 1_500
scrub = ["EMAIL", "PHONE", "CREDIT_CARD"]
unscrubbable_parts = ["image_url"]
unscrubbable_paths = ["/v1/files"]

[routes.prompted]
provider = "mock"
retries = 0
model = "gpt-4o-mini"
prompt = "support-bot"
scrub = []

[routes.knowing]
provider = "mock"
retries = 0
model = "gpt-4o-mini"
collections = ["handbook"]
scrub = []

[routes.guide]
provider = "mock"
retries = 0
model = "gpt-4o-mini"
prompt = "guide"
collections = ["contacts"]
scrub = ["EMAIL", "PHONE", "CREDIT_CARD"]

[routes.plain]
provider = "mock"
retries = 0
model = "upstream-model"
scrub = []

[routes.scrubbed]
provider = "mock"
retries = 0
model = "upstream-model"
scrub = ["EMAIL", "PHONE", "CREDIT_CARD"]

[routes.impatient]
provider = "impatient"
retries = 0
model = "upstream-model"
scrub = []

[routes.refusing]
provider = "refusing"
retries = 0
model = "upstream-model"
scrub = []

[routes."*"]
provider = "mock"
retries = 0
scrub = ["EMAIL", "PHONE", "CREDIT_CARD"]
"""


def config_for(mock, text=CONFIG):
    return text.replace("MOCK/", f"{mock.base}/").replace("CLOSED", f"127.0.0.1:{free_port()}")


def fill(store):
    """The prompts and knowledge that the shared configuration names."""
    store.put("support-bot", SUPPORT_BOT)
    store.put("guide", "Questions go to lead@brightwater-outdoor.com.")
    store.ingest_texts(
        "handbook",
        refunds="# Refunds\n\nRefunds take five working days and go to the card that paid.\n",
        tents="# Tents\n\nKeep a tent dry and repair small tears with tape.\n",
        shipping="# Shipping\n\nParcels leave the warehouse within two days.\n",
    )
    store.ingest_texts(
        "contacts",
        office="# Office\n\nThe refunds office is refunds@brightwater-outdoor.com.\n",
    )
    return store


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sluice")


@pytest.fixture(scope="session")
def mock(folder):
    mock = Mock(folder)
    yield mock
    mock.stop()


@pytest.fixture(scope="session")
def postgres():
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def edge(folder, mock):
    store = fill(Store(folder / "shared"))
    keys = {"master": store.key("master", asserts=ALL_ASSERTS), "simple": store.key("simple")}
    edge = Edge(store, config_for(mock))
    edge.keys = keys
    edge.wait_key(keys["simple"])
    yield edge
    edge.stop()


@pytest.fixture(scope="session")
def master(edge):
    """A key that may assert everything."""
    return edge.keys["master"]


@pytest.fixture(scope="session")
def simple(edge):
    """A key as `key create` makes it by default."""
    return edge.keys["simple"]


@pytest.fixture
def started():
    """Registers processes of one test, which are stopped when it ends."""
    processes = []

    def register(process):
        processes.append(process)
        return process

    yield register
    for process in reversed(processes):
        process.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for process in list(ALIVE):
            tail = "\n".join(process.log().splitlines()[-40:])
            report.sections.append((f"the last lines of {process.name} ({process.pid})", tail))
    return report


def pytest_report_header():
    return f"sluice: {harness.BINARY}"


# Tables that a module wants shown after the run: lines by title.
TABLES = {}


def pytest_terminal_summary(terminalreporter):
    for title, lines in TABLES.items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


def pytest_sessionfinish():
    for process in list(ALIVE):
        process.stop()


def note(text):
    """A measured number, shown by `pytest -rP` and kept in one file for the report."""
    print(text)
    target = Path(harness.ROOT / "target/tests")
    target.mkdir(parents=True, exist_ok=True)
    with open(target / "measured.txt", "a") as file:
        file.write(text + "\n")
