"""The admin listener, the configuration and its reload."""

import json
import re
import signal

import pytest

from conftest import config_for
from harness import SAMPLES, Edge, Store, eventually, free_port, open_chat, read_answer, request, user
from test_connections import without_stored_things

HI = user("hi", model="plain")


def bare(text):
    return "\n".join(without_stored_things(text)) + "\n"


def samples(text):
    """The samples of a Prometheus text: name to a list of (labels, value)."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        assert match, line
        found.setdefault(match[1], []).append((dict(re.findall(r'(\w+)="([^"]*)"', match[2] or "")), float(match[3])))
    return found


def test_the_metrics_that_the_contract_names_are_there(edge, master):
    body = user("refunds for ann@brightwater.com", model="support-bot", sluice={"variables": {"topic": "tents"}})
    assert edge.chat(master, body).status == 200
    assert edge.chat("wrong", body).status == 401
    found = samples(edge.metrics())
    for name, labels in {
        "sluice_requests_total": {"route", "status_class"},
        "sluice_errors_total": {"cause", "fault"},
        "sluice_step_microseconds_bucket": {"step", "le"},
        "sluice_own_microseconds_bucket": {"le"},
        "sluice_upstream_microseconds_bucket": {"provider", "le"},
        "sluice_tokens_total": {"route", "direction"},
        "sluice_recall_cache_total": {"result"},
        "sluice_snapshot_epoch": set(),
        "sluice_upstream_cancelled_total": set(),
    }.items():
        assert name in found, name
        for given, _ in found[name]:
            assert set(given) == labels, name
    assert {labels["fault"] for labels, _ in found["sluice_errors_total"]} <= {"caller", "policy", "provider", "sluice"}
    assert found["sluice_snapshot_epoch"][0][1] == edge.epoch()


def test_scrubbed_values_are_counted_by_kind(edge, master):
    before = edge.metric("sluice_scrubbed_total", kind="EMAIL")
    assert edge.chat(master, user("ann@brightwater.com", model="scrubbed")).headers["x-sluice-scrubbed"] == "EMAIL=1"
    eventually("it is counted", lambda: edge.metric("sluice_scrubbed_total", kind="EMAIL") == before + 1)


def test_requests_and_tokens_are_counted_once_each(edge, simple):
    def seen():
        return (
            edge.metric("sluice_requests_total", route="plain", status_class="2xx"),
            edge.metric("sluice_tokens_total", route="plain", direction="input"),
            edge.metric("sluice_tokens_total", route="plain", direction="output"),
            edge.metric("sluice_upstream_microseconds_count", provider="mock"),
            edge.metric("sluice_own_microseconds_count"),
        )

    before = seen()
    usage = edge.chat(simple, user("one two three", model="plain")).json()["usage"]
    wanted = tuple(
        b + more for b, more in zip(before, (1, usage["prompt_tokens"], usage["completion_tokens"], 1, 1))
    )
    eventually("the exchange is counted", lambda: seen() == wanted, 3)


def test_histograms_are_cumulative_and_end_at_their_count(edge, simple):
    edge.chat(simple, HI)
    found = samples(edge.metrics())
    histograms = [name.removesuffix("_bucket") for name in found if name.endswith("_bucket")]
    assert len(histograms) >= 3
    for name in histograms:
        rows = {}
        for labels, value in found[f"{name}_bucket"]:
            le = labels.pop("le")
            rows.setdefault(tuple(sorted(labels.items())), []).append((float(le), value))
        for key, buckets in rows.items():
            values = [v for _, v in sorted(buckets)]
            assert values == sorted(values), (name, key)
            count = next(v for labels, v in found[f"{name}_count"] if tuple(sorted(labels.items())) == key)
            assert max(buckets)[0] == float("inf") and values[-1] == count


def test_a_refusal_is_counted_by_cause(edge):
    def count():
        return edge.metric("sluice_errors_total", cause="invalid_api_key", fault="caller")

    before = count()
    assert edge.chat("wrong", HI).status == 401
    eventually("it is counted", lambda: count() == before + 1, 3)


def test_readyz_tells_the_epoch(edge):
    answer = request(edge.admin, "GET", "/readyz")
    assert answer.status == 200
    assert answer.json()["ready"] is True
    assert answer.json()["epoch"] >= 1


def test_the_admin_listener_has_nothing_else(edge, simple):
    for path in ("/", "/healthz", "/v1/models", "/v1/chat/completions", "/metrics/", "/debug"):
        assert request(edge.admin, "GET", path).status == 404, path


def start_with_admin_at(folder, mock, command, address):
    store = Store(folder / "open-admin")
    config = store.scratch / "open.toml"
    text = bare(config_for(mock)).replace("LISTEN", f"127.0.0.1:{free_port()}")
    config.write_text(text.replace("ADMIN", f"{address}:{free_port()}"))
    return store.run(command, "--config", config, code=None)


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "192.0.2.1"])
@pytest.mark.parametrize("command", ["up", "serve"])
def test_an_admin_listener_open_to_others_is_refused_at_start(folder, mock, address, command):
    done = start_with_admin_at(folder, mock, command, address)
    assert done.returncode > 0
    assert "admin_listen" in done.stderr + done.stdout


def test_the_refusal_of_an_open_admin_listener_has_exit_code_2(folder, mock):
    assert start_with_admin_at(folder, mock, "serve", "0.0.0.0").returncode == 2


def test_a_taken_port_is_named_at_start(folder, mock, edge):
    store = Store(folder / "taken")
    config = store.scratch / "taken.toml"
    config.write_text(bare(config_for(mock)).replace("LISTEN", edge.base).replace("ADMIN", f"127.0.0.1:{free_port()}"))
    done = store.run("up", "--config", config, code=None)
    assert done.returncode not in (0, None)
    assert edge.base in done.stderr + done.stdout


def test_a_valid_configuration_checks_as_ok(folder, mock):
    store = Store(folder / "checked")
    file = store.scratch / "good.toml"
    file.write_text(config_for(mock).replace("LISTEN", "127.0.0.1:1").replace("ADMIN", "127.0.0.1:2"))
    assert store.run("check", file).stdout.strip() == f"{file}: ok"


def test_the_sample_configuration_checks_as_ok(folder):
    assert Store(folder / "checked").run("check", SAMPLES / "sluice.toml").stdout.strip().endswith(": ok")


def test_every_fault_of_a_configuration_is_shown_with_its_place(folder):
    store = Store(folder / "checked")
    file = store.scratch / "bad.toml"
    lines = [
        "[server]",
        'listen = "nowhere"',
        'admin_listen = "127.0.0.1:8081"',
        "time_out = 30",
        "max_body_bytes = -1",
        "",
        "[providers.mock]",
        'kind = "mok"',
        "",
        "[routes.a]",
        'provider = "nobody"',
        'scrub = ["EMIAL"]',
    ]
    file.write_text("\n".join(lines) + "\n")
    said = store.run("check", file, code=1)
    said = said.stdout + said.stderr
    for line in (2, 4, 5, 8, 11, 12):
        found = re.search(rf"{re.escape(str(file))}:{line}:(\d+)  (\S.*)\n *{line} \| (.*)\n *\| ( *)(\^+)", said)
        assert found, f"line {line} is not shown in:\n{said}"
        assert found[3].rstrip() == lines[line - 1]
        # The carets stand under the column that is named.
        assert len(found[4]) == int(found[1]) - 1, said


@pytest.mark.parametrize("text", ["[server\n", "listen = \n", "[server]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n"])
def test_broken_toml_is_shown_with_its_place(folder, text):
    store = Store(folder / "checked")
    file = store.scratch / "broken.toml"
    file.write_text(text)
    said = store.run("check", file, code=1)
    assert re.search(rf"{re.escape(str(file))}:\d+:\d+  \S", said.stdout + said.stderr)


def test_a_server_with_a_bad_configuration_does_not_start(folder):
    store = Store(folder / "checked")
    file = store.scratch / "bad.toml"
    file.write_text("[server]\ntime_out = 30\n")
    for command in ("up", "serve"):
        done = store.run(command, "--config", file, code=None)
        assert done.returncode not in (0, None)
        assert f"{file}:2:1" in done.stderr + done.stdout


NEW_ROUTE = '\n[routes.appeared]\nprovider = "mock"\nmodel = "new-model"\nscrub = []\n'


@pytest.fixture
def reloading(folder, mock, started):
    store = Store(folder / f"reloading-{free_port()}")
    edge = started(Edge(store, bare(config_for(mock))))
    edge.key = edge.new_key(models="nothing")
    edge.text = bare(config_for(mock))
    return edge


def appeared(edge):
    return edge.chat(edge.key, user("hi", model="appeared")).status


def test_a_changed_file_is_taken_up_by_itself(reloading):
    assert appeared(reloading) == 404
    reloading.write_config(reloading.text + NEW_ROUTE)
    eventually("the new route is served", lambda: appeared(reloading) == 200, 10)
    assert reloading.chat(reloading.key, HI).status == 200
    reloading.write_config(reloading.text)
    eventually("the route is gone", lambda: appeared(reloading) == 404, 10)


def test_sighup_reloads_the_file(reloading):
    assert appeared(reloading) == 404
    reloading.write_config(reloading.text + NEW_ROUTE)
    reloading.child.send_signal(signal.SIGHUP)
    eventually("the new route is served", lambda: appeared(reloading) == 200, 5)


def test_a_bad_file_leaves_the_old_one_in_force_and_is_logged(reloading):
    reloading.write_config(reloading.text + NEW_ROUTE)
    eventually("the new route is served", lambda: appeared(reloading) == 200, 10)
    reloading.write_config(reloading.text.replace('model = "upstream-model"', 'modle = "x"').replace("[log]", "[log]\ncolour = 1"))
    reloading.child.send_signal(signal.SIGHUP)
    for word in ("modle", "colour"):
        eventually(
            f"the fault {word} is logged",
            lambda: [line for line in reloading.log().splitlines() if "ERROR" in line and word in line],
            5,
        )
    assert appeared(reloading) == 200
    assert reloading.chat(reloading.key, HI).status == 200
    reloading.write_config(reloading.text)
    eventually("the repaired file is in force", lambda: appeared(reloading) == 404, 10)


def test_a_reload_fails_no_request_and_keeps_limits(reloading):
    limited = reloading.store.key(rpm=2)
    reloading.new_key()
    assert [reloading.chat(limited, HI).status for _ in range(3)] == [200, 200, 429]
    reloading.write_config(reloading.text + NEW_ROUTE)
    statuses = []

    def reloaded():
        statuses.append(reloading.chat(reloading.key, HI).status)
        return appeared(reloading) == 200

    eventually("the new route is served", reloaded, 10)
    assert set(statuses) == {200}
    assert reloading.chat(limited, HI).status == 429


def test_the_environment_overrides_the_file(folder, mock, started):
    store = Store(folder / "overridden")
    other = f"127.0.0.1:{free_port()}"
    environment = {"SLUICE__SERVER__LISTEN": other, "SLUICE__LIMITS__REQUESTS_PER_MINUTE": "7"}
    edge = started(Edge(store, bare(config_for(mock)), environment=environment, wait=False))
    eventually("the overriding address answers", lambda: edge.must_run() or request(other, "GET", "/healthz").status == 200, 10)
    with pytest.raises(OSError):
        edge.listens()
    edge.base = other
    name = store.run("key", "create", "by-default", "--json")
    key = edge.wait_key(json.loads(name.stdout)["key"])
    assert edge.chat(key, HI).headers["x-ratelimit-limit-requests"] == "7"


def test_sigterm_lets_a_running_request_finish(folder, mock, started):
    config = bare(config_for(mock)).replace("drain_timeout_seconds = 1", "drain_timeout_seconds = 10")
    edge = started(Edge(Store(folder / "draining"), config))
    key = edge.new_key()
    connection = open_chat(edge, key, HI, {"latency_milliseconds": 1_500}, headers={"x-custom": "draining"})
    eventually("it is in flight", lambda: [r for r in mock.requests() if r["headers"].get("x-custom") == "draining"], 5)
    edge.child.send_signal(signal.SIGTERM)
    assert b'"hi"' in read_answer(connection)
    assert edge.child.wait(15) == 0
