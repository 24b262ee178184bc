"""The store's life on both databases, by the command line: what is written, what is refused, what edges serve."""

import json
import random
import sqlite3
import subprocess
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from conftest import CONFIG, config_for, fill
from harness import ALL_ASSERTS, BINARY, Edge, Store, eventually, user

MIGRATIONS = Path(__file__).parent.parent / "store" / "migrations"


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    url = request.getfixturevalue("postgres").database() if request.param == "postgres" else None
    return Store(tmp_path / "data", url)


def put(store, kind, alias, text, code=0, name="x.jinja", *more):
    file = store.scratch / f"{uuid.uuid4().hex[:6]}-{name}"
    file.write_text(text)
    return store.run("artifact", kind, "put", alias, file, *more, code=code)


def listed(store, kind="prompt"):
    return {a["alias"]: a for a in json.loads(store.run("artifact", kind, "list", "--json", "--archived").stdout)}


def refused(done, *words):
    assert done.returncode == 2, done
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_prompts_whole_life(store):
    put(store, "prompt", "standard", "The default, which stays enabled.")
    put(store, "prompt", "greet", "Hello {{ name }}.\n")
    put(store, "prompt", "greet", "Hello {{ name }}.\n")
    put(store, "prompt", "greet", "Good day, {{ name }}.\n", 0, "y.jinja", "--note", "politer")
    history = json.loads(store.run("prompt", "history", "greet", "--json").stdout)
    assert [(v["number"], v["note"]) for v in history] == [(2, "politer"), (1, "")]
    assert history[0]["content_hash"] != history[1]["content_hash"]
    diff = store.run("prompt", "diff", "greet", 1, 2).stdout
    assert "-Hello {{ name }}." in diff and "+Good day, {{ name }}." in diff and "greet@1" in diff
    store.run("prompt", "deploy", "greet")
    store.run("prompt", "rollback", "greet", "--to", 1, "--note", "too polite")
    store.run("prompt", "rollback", "greet")
    deployed = json.loads(store.run("prompt", "history", "greet", "--deployments", "--json").stdout)
    assert [(d["revision"], d["version"], d["note"]) for d in deployed] == [
        (3, 2, "roll-back"), (2, 1, "too polite"), (1, 2, ""),
    ]
    shown = json.loads(store.run("prompt", "show", "greet", "--version", 1, "--json").stdout)
    assert shown["content"]["messages"] == [{"role": "system", "content": "Hello {{ name }}."}]
    refused(store.run("prompt", "delete", "greet", code=2), "in use", "production")
    refused(store.run("prompt", "disable", "greet", code=2), "in use")
    store.run("prompt", "withdraw", "greet")
    store.run("prompt", "disable", "greet")
    refused(store.run("prompt", "deploy", "greet", code=2), "disabled")
    store.run("prompt", "delete", "greet")
    refused(store.run("prompt", "show", "greet", code=2), "no version")
    refused(store.run("prompt", "disable", "standard", code=2), "default")
    store.run("prompt", "delete", "standard")
    assert listed(store) == {}


def test_concurrent_editors_and_deployers_get_a_conflict(store):
    put(store, "prompt", "p", "one", 0, "a.jinja", "--expect", "0")
    put(store, "prompt", "p", "two", 0, "b.jinja", "--expect", "1")
    refused(put(store, "prompt", "p", "lost?", 2, "c.jinja", "--expect", "1"), "somebody else", "revision 2")
    store.run("prompt", "deploy", "p", "--expect", 0)
    refused(store.run("prompt", "deploy", "p", "--version", 1, "--expect", 0, code=2), "somebody else")
    # Twelve at once, all from what they saw: one wins each time, and nobody sees a failure of the database.
    outcomes = []

    def deploy():
        outcomes.append(store.run("prompt", "deploy", "p", "--version", 1, "--expect", 1, code=None))

    threads = [threading.Thread(target=deploy) for _ in range(12)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert Counter(o.returncode for o in outcomes) == {0: 1, 2: 11}
    assert all("somebody else" in o.stderr for o in outcomes if o.returncode)
    assert listed(store)["p"]["deployments"] == [{"environment": "production", "version": 1, "revision": 2}]


def test_many_writers_lose_nothing(store):
    store.run("key", "list")

    def write(n):
        for k in range(4):
            put(store, "prompt", "shared", f"text {n} {k}")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    versions = json.loads(store.run("prompt", "history", "shared", "--json").stdout)
    assert sorted(v["number"] for v in versions) == list(range(1, 25))
    texts = {v["content"]["messages"][0]["content"] for v in versions}
    assert texts == {f"text {n} {k}" for n in range(6) for k in range(4)}


def test_partials_are_resolved_and_what_would_break_is_refused(store):
    put(store, "partial", "tone", "Be {{ manner }}.")
    refused(put(store, "prompt", "p", "{% include name %}", 2), "quotes")
    put(store, "prompt", "p", "{% include 'tone' %} Answer.")
    refused(store.run("prompt", "deploy", "p", code=2), "tone", "not deployed")
    store.run("artifact", "partial", "deploy", "tone")
    store.run("prompt", "deploy", "p")
    refused(store.run("artifact", "partial", "withdraw", "tone", code=2), "p", "production")
    refused(store.run("artifact", "partial", "disable", "tone", code=2), "in use")
    refused(store.run("artifact", "partial", "delete", "tone", code=2), "in use")
    # A declared prompt breaks when its partial begins to use what it does not declare.
    put(store, "prompt", "strict", "+++\n[variables.manner]\ndefault = 'kind'\n+++\n{% include 'tone' %}")
    store.run("prompt", "deploy", "strict")
    put(store, "partial", "tone", "Be {{ manner }} and {{ length }}.")
    refused(store.run("artifact", "partial", "deploy", "tone", code=2), "strict", "length")
    # Circles are seen, also long ones.
    put(store, "partial", "a", "{% include 'b@latest' %}")
    put(store, "partial", "b", "{% include 'a@latest' %}")
    put(store, "prompt", "round", "{% include 'a@1' %}")
    refused(store.run("prompt", "deploy", "round", code=2), "circle")
    # Ranges choose versions, and not deprecated ones.
    put(store, "partial", "v", "one")
    put(store, "partial", "v", "two")
    put(store, "partial", "v", "three")
    store.run("artifact", "partial", "deprecate", "v", 3)
    put(store, "prompt", "ranged", "{% include 'v@>=1' %} {% include 'v@3' %} {% include 'v@1-1' %}")
    store.run("prompt", "deploy", "ranged")
    refused(put(store, "prompt", "wrong", "{% include 'v@x' %}", 2), "@x")
    put(store, "prompt", "beyond", "{% include 'v@9' %}")
    refused(store.run("prompt", "deploy", "beyond", code=2), "@9")


def test_exactly_one_default_and_unique_names(store):
    put(store, "prompt", "a", "A")
    put(store, "prompt", "b", "B")
    defaults = lambda: [name for name, artifact in listed(store).items() if artifact["is_default"]]
    assert defaults() == ["a"]
    store.run("prompt", "default", "b")
    assert defaults() == ["b"]
    refused(store.run("prompt", "delete", "b", code=2), "default")
    refused(store.run("prompt", "archive", "b", code=2), "default")
    refused(put(store, "persona", "a", "A"  , 2), "exists already")
    refused(put(store, "prompt", "default", "x", 2), "stands for")


def test_other_kinds_are_data_with_links(store):
    put(store, "prompt", "step", "Do {{ it }}.")
    put(store, "tool", "search", json.dumps({"description": "Search", "parameters": {"type": "object"}}))
    refused(put(store, "tool", "bad", json.dumps({"parameters": {"type": 3}}), 2), "parameters")
    flow = {"steps": [{"id": "one", "prompt": "step"}], "links": [{"kind": "tool", "alias": "search"}]}
    put(store, "flow", "both", json.dumps(flow))
    refused(store.run("prompt", "delete", "step", code=2), "flow `both@1` names it")
    refused(store.run("artifact", "tool", "disable", "search", code=2), "in use")
    store.run("artifact", "flow", "delete", "both")
    store.run("artifact", "tool", "delete", "search")


def old_store(folder, schema):
    """A store as a released version of that schema left it."""
    folder.mkdir(parents=True)
    database = sqlite3.connect(folder / "store.db")
    database.execute("CREATE TABLE schema_migration (number BIGINT PRIMARY KEY, at BIGINT NOT NULL)")
    for number, file in enumerate(sorted((MIGRATIONS / "sqlite").glob("*.sql"))[:schema], 1):
        database.executescript(file.read_text())
        database.execute("INSERT INTO schema_migration VALUES (?, 0)", (number,))
    ids = [bytes([n]) * 16 for n in range(8)]
    rows = [
        ("INSERT INTO tenant VALUES (?, 'default', 1)", [ids[0]]),
        ("INSERT INTO principal VALUES (?, ?, 'old', ?, 'sk-', 5, '*', '*', 'variables', 1, 0, NULL)", [ids[1], ids[0], b"h" * 32]),
        ("INSERT INTO artifact VALUES (?, ?, 'prompt', 'greet', 1)", [ids[2], ids[0]]),
        ("INSERT INTO deployment VALUES (?, 'production', 1, ?, 'ann', 'first', 1)", [ids[2], ids[3]]),
    ]
    body, variables = json.dumps([["system", "Hi {{ name }}."]]), json.dumps({"name": None, "tone": "dry"})
    version = ("INSERT INTO artifact_version VALUES (?, ?, 1, ?, ?, ?, 'n', 'ann', 1)", [ids[3], ids[2], b"x" * 32, body, variables])
    rows.insert(3, version)
    more = ", ''" if schema > 1 else ""
    rows.append((f"INSERT INTO document VALUES (?, ?, 'notes', 'd', 'T', ?, 1{more})", [ids[4], ids[0], b"d" * 32]))
    number = ", 1" if schema > 1 else ""
    rows.append((f"INSERT INTO snippet VALUES (?, ?, 'notes', ?, 0, '', 'saffron costs much', ?, 'none', NULL{number})", [ids[5], ids[0], ids[4], b"s" * 32]))
    if schema > 1:
        rows.append(("INSERT INTO collection VALUES (?, 'notes', 2)", [ids[0]]))
    for statement, values in rows:
        database.execute(statement, values)
    database.commit()
    database.close()


@pytest.mark.parametrize("schema", [1, 2])
def test_stores_of_released_schemas_are_carried_over(tmp_path, schema):
    old_store(tmp_path / "data", schema)
    store = Store(tmp_path / "data")
    shown = json.loads(store.run("prompt", "show", "greet", "--json").stdout)
    assert shown["content"] == {
        "messages": [{"role": "system", "content": "Hi {{ name }}."}],
        "variables": {"name": {}, "tone": {"default": "dry"}},
    }
    assert listed(store)["greet"]["deployments"] == [{"environment": "production", "version": 1, "revision": 1}]
    assert json.loads(store.run("key", "list", "--json").stdout)[0]["name"] == "old"
    assert "saffron costs much" in store.run("search", "notes", "saffron").stdout
    # The same text is the same version after it was rewritten.
    put(store, "prompt", "greet", "+++\n[variables.name]\n[variables.tone]\ndefault = 'dry'\n+++\nHi {{ name }}.")
    assert listed(store)["greet"]["versions"] == 1


def test_a_newer_schema_is_refused(tmp_path):
    store = Store(tmp_path / "data")
    store.run("key", "list")
    database = sqlite3.connect(store.folder / "store.db")
    database.execute("INSERT INTO schema_migration VALUES (99, 0)")
    database.commit()
    refused(store.run("key", "list", code=2), "schema 99")


def test_on_postgresql_rows_of_other_tenants_cannot_be_seen(postgres, tmp_path):
    url = postgres.database()
    name = url.rsplit("/", 1)[1]
    for tenant in ["red", "blue"]:
        store = Store(tmp_path / tenant, url)
        store.environment["SLUICE_TENANT"] = tenant
        put(store, "prompt", tenant, "text")
        store.key("k")
        store.ingest_texts("notes", a=f"The colour is {tenant}.")
    count = lambda setting, table: postgres.sql(f"SET sluice.tenant = '{setting}'; SELECT COUNT(*) FROM {table}", name, "sluice")
    red = postgres.sql("SELECT encode(id, 'hex') FROM tenant WHERE slug = 'red'", name)
    tables = postgres.sql("SELECT table_name FROM information_schema.columns WHERE column_name = 'tenant_id' AND table_schema = 'public' AND is_nullable = 'NO'", name).split()
    assert len(tables) >= 18
    guarded = postgres.sql("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity", name).split()
    assert set(tables) == set(guarded)
    for table in ["artifact", "artifact_version", "principal", "document", "snippet", "event"]:
        everything, own, nothing = (int(count(setting, table)) for setting in ["*", red, ""])
        assert own > 0 and everything > own and nothing == 0, table
    # Writing for somebody else is refused too.
    blue = postgres.sql("SELECT encode(id, 'hex') FROM tenant WHERE slug = 'blue'", name)
    steal = f"SET sluice.tenant = '{red}'; UPDATE artifact SET title = 'mine' WHERE alias = 'blue'"
    postgres.sql(steal, name, "sluice")
    assert postgres.sql("SELECT COUNT(*) FROM artifact WHERE title = 'mine'", name) == "0"
    with pytest.raises(AssertionError, match="row-level security"):
        insert = f"SET sluice.tenant = '{red}'; INSERT INTO collection VALUES (decode('{blue}', 'hex'), 'x', 1)"
        postgres.sql(insert, name, "sluice")


EDGE = CONFIG + """
[routes.asked]
provider = "mock"
retries = 0
model = "m"
prompt = "asked"
scrub = []

[routes.standard]
provider = "mock"
retries = 0
prompt = "default"
scrub = []
"""


@pytest.fixture
def up(store, mock):
    edge = Edge(store, config_for(mock, EDGE))
    edge.key = edge.new_key(asserts=ALL_ASSERTS)
    yield edge
    edge.stop()


def sent(edge, model, **more):
    """What would be sent to the provider."""
    answer = edge.send("POST", "/v1/explain", user("hi", model=model, **more), edge.key)
    assert answer.status == 200, answer
    return answer.json()


def test_edges_serve_partials_parameters_defaults_and_types(up):
    store = up.store
    assert "helpful assistant" in sent(up, "standard")["body"]["messages"][0]["content"]
    put(store, "partial", "tone", "Be {{ manner }}.")
    store.run("artifact", "partial", "deploy", "tone")
    front = "+++\n[variables.manner]\ntype = 'string'\ndefault = 'kind'\n[parameters]\ntemperature = 0.25\nmodel = 'of-prompt'\n+++\n"
    put(store, "prompt", "asked", front + "{% include 'tone' %} Then answer.")
    store.run("prompt", "deploy", "asked")
    eventually("the prompt is served", lambda: up.send("POST", "/v1/explain", user("x", model="asked"), up.key).status == 200)
    body = sent(up, "asked")["body"]
    assert body["messages"][0] == {"role": "system", "content": "Be kind. Then answer."}
    assert (body["temperature"], body["model"]) == (0.25, "m")
    assert sent(up, "asked", temperature=1)["body"]["temperature"] == 1
    assert sent(up, "standard")["body"]["model"] == "of-prompt"
    assert sent(up, "standard")["body"]["messages"][0]["content"] == "Be kind. Then answer."
    wrong = up.send("POST", "/v1/explain", user("x", model="asked", sluice={"variables": {"manner": 7}}), up.key)
    assert (wrong.status, wrong.error["code"]) == (400, "invalid_variable")
    assert "manner" in wrong.error["message"]
    # The partial alone is deployed anew, and every prompt that includes it follows.
    put(store, "partial", "tone", "Be very {{ manner }}.")
    store.run("artifact", "partial", "deploy", "tone")
    eventually("the partial is served", lambda: "very kind" in sent(up, "asked")["body"]["messages"][0]["content"])


def arms_of(up, sessions):
    """Each session's arm, by the header of its answers."""
    found = {}
    for session in sessions:
        answer = up.chat(up.key, user("hi", model="asked"), headers={"x-sluice-session": session})
        if answer.status == 404:
            return {session: None}
        assert answer.status == 200, answer
        found[session] = answer.headers.get("x-sluice-experiment", "").partition("/")[2] or None
    return found


def test_an_experiment_keeps_everybody_where_they_are(up):
    store = up.store
    for text in ["control", "short", "long"]:
        put(store, "prompt", "asked", text)
    store.run("prompt", "deploy", "asked", "--version", 1)
    refused(store.run("experiment", "create", "length", "--prompt", "asked", "--arm", "short=9:0.5", code=2), "asked@9")
    store.run("experiment", "create", "length", "--prompt", "asked", "--arm", "short=2:0.5", "--arm", "long=3:0.5",
              "--coverage", "0.4", "--metric", "helpful")
    store.run("experiment", "start", "length")
    refused(store.run("prompt", "withdraw", "asked", code=2), "length")
    sessions = [f"s{n}" for n in range(120)]
    eventually("the experiment is served", lambda: any(arms_of(up, sessions[:20]).values()))
    narrow = arms_of(up, sessions)
    shares = Counter(narrow.values())
    assert 0.25 < (shares["short"] + shares["long"]) / 120 < 0.55, shares
    store.run("experiment", "change", "length", "--coverage", "1")
    eventually("full coverage is served", lambda: None not in arms_of(up, sessions[:30]).values())
    wide = arms_of(up, sessions)
    assert all(wide[s] == arm for s, arm in narrow.items() if arm), "somebody changed the arm"
    assert set(wide.values()) == {"short", "long"}
    # The text is the arm's, also without a session there is the deployed one.
    session = next(s for s, arm in wide.items() if arm == "long")
    assert sent(up, "asked", sluice={"session": session})["body"]["messages"][0]["content"] == "long"
    assert sent(up, "asked")["body"]["messages"][0]["content"] == "control"
    # Feedback by run and by session; the newest value of a unit counts.
    runs = {}
    for s in sessions[:60]:
        answer = up.chat(up.key, user("hi", model="asked"), headers={"x-sluice-session": s})
        runs[s] = answer.headers["x-sluice-request-id"]
    for s, run in runs.items():
        for value in [False, (wide[s] == "long") != (sessions.index(s) % 9 == 0)]:
            said = up.send("POST", "/v1/feedback", {"metric": "helpful", "value": value, "run": run}, up.key)
            assert (said.status, said.json()) == (202, {"accepted": True})
    assert up.send("POST", "/v1/feedback", {"metric": "helpful", "value": 0.5, "session": "s70"}, up.key).status == 202

    def results():
        return json.loads(store.run("experiment", "results", "length", "--json").stdout)

    eventually("feedback is stored", lambda: sum(a["values"] for a in results()["arms"]) == 61, 20)
    by_arm = {a["arm"]: a for a in results()["arms"]}
    assert by_arm["long"]["mean"] > 0.7 and by_arm["short"]["mean"] < 0.3
    assert by_arm["long"]["margin"] > 0
    assert {a["units"] for a in by_arm.values()} == set(Counter(wide.values()).values())
    assert results()["sample_ratio_p"] > 0.001
    store.run("experiment", "stop", "length")
    eventually("it is over", lambda: set(arms_of(up, sessions[:10]).values()) == {None})


def test_feedback_is_checked(up):
    for body in [
        {}, {"metric": "m"}, {"metric": "m", "value": "x", "session": "s"}, {"metric": "m", "value": 1},
        {"metric": "m", "value": 1, "run": "short"}, {"metric": "", "value": 1, "session": "s"},
        {"metric": "m", "value": 1, "session": "s", "subject": "t"}, {"metric": "m", "value": 1, "session": "s", "more": 1},
        {"metric": "m", "comment": "x" * 5000, "session": "s"},
    ]:
        answer = up.send("POST", "/v1/feedback", body, up.key)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request"), body
    plain = up.new_key()
    answer = up.send("POST", "/v1/feedback", {"metric": "m", "value": 1, "session": "s"}, plain)
    assert (answer.status, answer.error["code"]) == (403, "not_permitted")


def test_runs_arrive_once_whatever_is_killed(store, mock):
    """Edges are killed again and again; every answer that a client got whole has its one record."""
    writer = Edge(store, config_for(mock, EDGE))
    key = writer.new_key(asserts=ALL_ASSERTS)
    answered, lock, stop = [], threading.Lock(), threading.Event()

    def ask():
        while not stop.is_set():
            try:
                answer = writer.chat(key, user("hi", model="plain"), timeout=5)
                if answer.status == 200:
                    with lock:
                        answered.append(answer.headers["x-sluice-request-id"])
            except OSError:
                time.sleep(0.02)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    [a.start() for a in askers]
    try:
        for _ in range(4):
            time.sleep(random.uniform(0.5, 1.5))
            writer.restart(kill=True)
            writer.wait_ready()
        time.sleep(0.5)
    finally:
        stop.set()
        [a.join() for a in askers]
    counted = lambda: json.loads(store.run("runs", "--limit", 1_000_000, "--json").stdout)
    eventually("all runs are stored", lambda: len(set(answered) - {r["id"] for r in counted()}) <= 16, 30, 0.5)
    runs = [r["id"] for r in counted()]
    assert len(runs) == len(set(runs))
    # Between an answer's last byte and its record a kill may fall: at most the four that were running, four times.
    assert len(set(answered) - set(runs)) <= 16
    assert len(answered) > 200
    writer.stop()
