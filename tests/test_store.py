"""The store's life on both databases, by the command line: what is written, what is refused, what edges serve."""

import json
import os
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


def test_drafts_previews_and_what_is_said_beside_versions(store):
    put(store, "partial", "tone", "Be {{ manner }}.")
    store.run("artifact", "partial", "deploy", "tone")
    file = store.scratch / "draft.jinja"
    file.write_text("{% include 'tone' %} You sell {{ what }}.")
    store.run("prompt", "draft", "shop", file)
    assert json.loads(store.run("prompt", "draft", "shop").stdout)["messages"][0]["content"] == file.read_text()
    refused(store.run("prompt", "render", "shop", code=2), "no version")
    assert "shop version 1" in store.run("prompt", "publish", "shop", "--note", "first").stdout
    refused(store.run("prompt", "publish", "shop", code=2), "no draft")
    refused(store.run("prompt", "render", "shop", "--variable", "what=tents", code=2), "Missing variable: {{manner}}")
    said = store.run("prompt", "render", "shop", "--variable", "what=tents", "--variable", 'manner="kind"')
    assert said.stdout == "## system\nBe kind. You sell tents.\n" and "tokens" in said.stderr
    store.run("setting", "put", "prices", '{"m": {"input": 1000000, "output": 1}}')
    shown = json.loads(store.run("prompt", "render", "shop", "--variable", "what=1", "--variable", "manner=a", "--model", "m", "--json").stdout)
    assert shown["input_cost"] == shown["tokens"] > 0 and {v["name"] for v in shown["variables"]} == {"what", "manner"}
    refused(store.run("artifact", "partial", "render", "tone", code=2), "not rendered by itself")
    store.run("prompt", "change", "shop", "--title", "The shop", "--tags", "a,b", "--visibility", "public", "--context-engineering", "false")
    found = listed(store)["shop"]
    assert (found["title"], found["tags"], found["visibility"], found["context_engineering_enabled"]) == ("The shop", ["a", "b"], "public", False)
    store.run("prompt", "change", "shop", "--tags")
    assert listed(store)["shop"]["tags"] == [] and listed(store)["shop"]["title"] == "The shop"
    refused(store.run("prompt", "change", "shop", "--visibility", "all", code=2), "`private` or `public`")


def meddle(store, request, change):
    """Changes the database behind the store's back."""
    if store.environment:
        request.getfixturevalue("postgres").sql(change, store.environment["SLUICE_STORE"].rsplit("/", 1)[1])
    else:
        with sqlite3.connect(store.folder / "store.db") as database:
            database.execute(change)


def test_deployments_are_told_in_their_order_though_the_clock_was_put_back(store, request):
    for text in ["one", "two", "three"]:
        put(store, "prompt", "p", text)
    for environment in ["staging", "production"]:
        for version in [2, 1, 3]:
            store.run("prompt", "deploy", "p", "--version", version, "--environment", environment)
    meddle(store, request, "UPDATE deployment SET at = at - 86400 * revision WHERE environment = 'production'")
    told = json.loads(store.run("prompt", "history", "p", "--deployments", "--json").stdout)
    for environment in ["staging", "production"]:
        found = [(one["revision"], one["version"]) for one in told if one["environment"] == environment]
        assert found == [(3, 3), (2, 1), (1, 2)], told
    assert told[0]["environment"] == "staging", "the newest first"
    store.run("prompt", "rollback", "p", "--environment", "production")
    newest = json.loads(store.run("prompt", "history", "p", "--deployments", "--json").stdout)[0]
    assert (newest["environment"], newest["revision"], newest["version"]) == ("production", 4, 1)


def test_a_sealed_credential_cannot_be_moved_to_another_row(store, request):
    for name in ["ours", "theirs"]:
        store.run("secret", "put", name, "--origin", "https://example.com", said=f"sk-of-{name}-0123456789")
    move = "UPDATE secret SET (nonce, ciphertext) = (SELECT nonce, ciphertext FROM secret o WHERE o.name = 'theirs') WHERE name = 'ours'"
    meddle(store, request, move)
    refused(store.run("secret", "rotate", code=2), "`ours` is damaged")
    assert "`ours` is damaged" in store.run("publish").stderr
    store.run("secret", "delete", "ours")
    store.run("secret", "rotate")


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


def test_links_of_data_are_resolved_and_make_no_circle(store):
    naming = lambda *links: json.dumps({"links": [{"kind": k, "alias": a, "selector": s} for k, a, s in links]})
    put(store, "tool", "search", json.dumps({"description": "one"}))
    put(store, "tool", "search", json.dumps({"description": "two"}))
    put(store, "agent", "a", naming(("tool", "search", ">=2")))
    refused(put(store, "agent", "b", naming(("tool", "search", ">=3")), 2), "`search@>=3`", "no version")
    store.run("artifact", "tool", "deprecate", "search", 2)
    refused(put(store, "agent", "b", naming(("tool", "search", ">=2")), 2), "`search@>=2`", "not deprecated")
    put(store, "agent", "b", naming(("tool", "search", "2"), ("agent", "a", "")))
    put(store, "policy", "c", naming(("agent", "b", "latest")))
    refused(put(store, "agent", "a", naming(("policy", "c", "")), 2), "circle", "policy `c` › agent `b` › agent `a`")
    refused(put(store, "agent", "a", naming(("agent", "a", "")), 2), "circle")
    put(store, "agent", "b", naming(("tool", "search", "1")))
    put(store, "agent", "a", naming(("policy", "c", "")))


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


def later_rows(literal, body, hash):
    """The same in the tables of the third schema and later; `literal` writes bytes as the database does."""
    ids = [literal(bytes([n]) * 16) for n in range(8)]
    hashes = [literal(bytes.fromhex("%064x" % n)) for n in range(4)]
    return [
        f"INSERT INTO tenant (id, slug, created_at) VALUES ({ids[0]}, 'default', 1)",
        "INSERT INTO principal (id, tenant_id, name, cred_hash, prefix, rpm, routes, models, asserts, created_at, expires_at)"
        f" VALUES ({ids[1]}, {ids[0]}, 'old', {hashes[0]}, 'sk-', 5, '*', '*', 'variables', 1, 0)",
        "INSERT INTO artifact (id, tenant_id, kind, alias, title, tags, visibility, enabled, context, revision, created_by, created_at,"
        f" updated_at) VALUES ({ids[2]}, {ids[0]}, 'prompt', 'greet', '', '', 'private', 1, 1, 1, 'ann', 1, 1)",
        "INSERT INTO artifact_version (id, tenant_id, artifact_id, number, content_hash, body, note, author, created_at)"
        f" VALUES ({ids[3]}, {ids[0]}, {ids[2]}, 1, {literal(hash)}, '{body}', 'n', 'ann', 1)",
        "INSERT INTO deployment (artifact_id, tenant_id, environment, revision, version_id, actor, note, at)"
        f" VALUES ({ids[2]}, {ids[0]}, 'production', 1, {ids[3]}, 'ann', 'first', 1)",
        f"INSERT INTO collection (tenant_id, name, next_sequence) VALUES ({ids[0]}, 'notes', 2)",
        "INSERT INTO document (id, tenant_id, collection, external_id, title, content_hash, updated_at)"
        f" VALUES ({ids[4]}, {ids[0]}, 'notes', 'd', 'T', {hashes[1]}, 1)",
        "INSERT INTO snippet (id, tenant_id, collection, document_id, ordinal, heading, text, content_hash, embed_model, sequence)"
        f" VALUES ({ids[5]}, {ids[0]}, 'notes', {ids[4]}, 0, '', 'saffron costs much', {hashes[2]}, 'none', 1)",
        "INSERT INTO run (id, tenant_id, at, edge, route, provider, model, prompt, version, environment, experiment, arm, status, error,"
        " input_tokens, output_tokens, own_microseconds, total_microseconds)"
        f" VALUES ({ids[6]}, {ids[0]}, {int(time.time() * 1e6)}, 'e', 'r', 'p', 'm', 'greet', 1, 'production', '', '', 200, '', 3, 4, 5, 6)",
    ]


def store_of_schema(schema, engine, request, tmp_path):
    """A store as a released version of that schema left it, and how this version opens it."""
    folder = tmp_path / "data"
    if engine == "sqlite" and schema < 3:
        old_store(folder, schema)
        return Store(folder)
    # What the prompt is stored as has not changed since the third.
    scratch = Store(tmp_path / "scratch")
    put(scratch, "prompt", "greet", DECLARED)
    stored = sqlite3.connect(scratch.folder / "store.db").execute("SELECT body, content_hash FROM artifact_version").fetchone()
    assert stored[0] == '{"messages":[{"role":"system","content":"Hi {{ name }}."}],"variables":{"name":{},"tone":{"default":"dry"}}}'
    files = [file.read_text() for file in sorted((MIGRATIONS / engine).glob("*.sql")) if int(file.name[:4]) <= schema]
    known = [f"INSERT INTO schema_migration VALUES ({number}, 0)" for number in range(1, schema + 1)]
    made = "CREATE TABLE schema_migration (number BIGINT PRIMARY KEY, at BIGINT NOT NULL)"
    if engine == "sqlite":
        folder.mkdir(parents=True)
        database = sqlite3.connect(folder / "store.db")
        for statement in [made, *files, *known, *later_rows(lambda value: f"x'{value.hex()}'", *stored)]:
            database.executescript(statement)
        database.close()
        return Store(folder)
    postgres = request.getfixturevalue("postgres")
    url = postgres.database()
    rows = ["SET sluice.tenant = '*'", *later_rows(lambda value: f"decode('{value.hex()}', 'hex')", *stored)]
    for statement in [made, *files, ";\n".join(known), ";\n".join(rows)]:
        postgres.sql(statement, url.rsplit("/", 1)[1], "sluice")
    return Store(folder, url)


DECLARED = "+++\n[variables.name]\n[variables.tone]\ndefault = 'dry'\n+++\nHi {{ name }}."
NEWEST = max(int(file.name[:4]) for file in (MIGRATIONS / "sqlite").glob("*.sql"))
SCHEMAS = [("sqlite", n) for n in range(1, NEWEST + 1)] + [("postgres", n) for n in range(3, NEWEST + 1)]


@pytest.mark.parametrize("engine,schema", SCHEMAS)
def test_stores_of_released_schemas_are_carried_over(request, tmp_path, engine, schema):
    store = store_of_schema(schema, engine, request, tmp_path)
    if schema > 2:
        assert json.loads(store.run("runs", "--json").stdout)[0]["prompt"] == "greet"
    shown = json.loads(store.run("prompt", "show", "greet", "--json").stdout)
    assert shown["content"] == {
        "messages": [{"role": "system", "content": "Hi {{ name }}."}],
        "variables": {"name": {}, "tone": {"default": "dry"}},
    }
    assert listed(store)["greet"]["deployments"] == [{"environment": "production", "version": 1, "revision": 1}]
    assert json.loads(store.run("key", "list", "--json").stdout)[0]["name"] == "old"
    assert "saffron costs much" in store.run("search", "notes", "saffron").stdout
    # The same text is the same version after it was rewritten.
    put(store, "prompt", "greet", DECLARED)
    assert listed(store)["greet"]["versions"] == 1


def test_the_store_s_key_comes_from_where_it_is_said_to_be(tmp_path):
    store = Store(tmp_path / "data")
    store.key()
    keys = [f"{number:064x}" for number in (1, 2)]

    def seal(**environment):
        done = store.run("secret", "put", "upstream", "--origin", "https://a.example", said="sk-1", environment=environment, code=None)
        return done.returncode, done.stderr

    assert seal(SLUICE_STORE_KEY_COMMAND=f"echo {keys[0]}") == (0, "")
    assert not (store.folder / "store.key").exists()
    listed = lambda: json.loads(store.run("secret", "list", "--json").stdout)[0]["key_id"]
    first = listed()
    # A rotation is a new key in front of the old one, until everything is sealed with it.
    old = {"SLUICE_STORE_KEY": keys[0]}
    assert "put the new key before the old one" in store.run("secret", "rotate", environment=old, code=2).stderr
    store.run("secret", "rotate", environment={"SLUICE_STORE_KEY": f"{keys[1]},{keys[0]}"})
    assert listed() != first
    # Keys that cannot be had stop nobody's revocation, and change nothing of what is sealed.
    new = {"SLUICE_STORE_KEY": keys[1]}
    store.run("publish", environment=new)
    store.run("key", "create", "k")
    for failing in ["exit 3", "echo nonsense", "sleep 60"]:
        environment = {"SLUICE_STORE_KEY_COMMAND": failing, "SLUICE_STORE_KEY_COMMAND_SECONDS": "1"}
        code, said = seal(**environment)
        assert code == 2 and "SLUICE_STORE_KEY_COMMAND" in said, said
        assert "the store's key cannot be had" in store.run("publish", environment=environment).stderr
        store.run("key", "create", failing.replace(" ", "-"))
    store.run("publish", environment=new)


def test_a_collection_that_cannot_be_built_stops_nobody_s_revocation(tmp_path):
    store = Store(tmp_path / "data")
    store.ingest_texts("notes", one="# One\n\nSaffron costs much.\n")
    store.publish()
    store.ingest_texts("notes", two="# Two\n\nCumin costs less.\n")
    key = store.key("k")
    nowhere = {"TMPDIR": str(tmp_path / "nowhere")}
    failed = store.run("publish", environment=nowhere, code=2)
    assert "temporary" in failed.stderr, failed.stderr
    manifest = (store.folder / "objects/manifest").read_bytes()
    store.run("key", "revoke", "k")
    store.run("publish", environment=nowhere, code=2)
    assert (store.folder / "objects/manifest").read_bytes() != manifest and key
    # With room everything is there: what was served all along, and what waited.
    for word in ["Saffron", "Cumin"]:
        assert word in store.run("search", "notes", word.lower()).stdout


def test_many_first_commands_at_once_make_one_store(store):
    begun = [
        subprocess.Popen(
            [BINARY, "--data", store.folder, "key", "create", f"k{n}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **store.environment},
        )
        for n in range(8)
    ]
    ended = [(process.communicate(timeout=60), process.returncode) for process in begun]
    assert [code for _, code in ended] == [0] * 8, ended
    assert {key["name"] for key in json.loads(store.run("key", "list", "--json").stdout)} == {f"k{n}" for n in range(8)}


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
        store.run("tenant", "create", tenant)
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
    told = lambda: {a["units"] for a in results()["arms"]} == set(Counter(wide.values()).values())
    eventually("so are the runs", told, 20)
    by_arm = {a["arm"]: a for a in results()["arms"]}
    assert by_arm["long"]["mean"] > 0.7 and by_arm["short"]["mean"] < 0.3
    assert by_arm["long"]["margin"] > 0
    assert results()["sample_ratio_p"] > 0.001
    store.run("experiment", "stop", "length")
    eventually("it is over", lambda: set(arms_of(up, sessions[:10]).values()) == {None})


@pytest.mark.parametrize("unit", ["subject", "key", "request"])
def test_units_of_an_experiment_stay_in_their_arm_and_count_once(up, unit):
    store, name, alias = up.store, f"by-{unit}", f"text-{unit}"
    for text in ["control", "short", "long"]:
        put(store, "prompt", alias, text)
    store.run("prompt", "deploy", alias, "--version", 1)
    store.run("experiment", "create", name, "--prompt", alias, "--arm", "short=2:0.5", "--arm", "long=3:0.5", "--unit", unit,
              "--coverage", "1", "--metric", "helpful")
    store.run("experiment", "start", name)
    keys = [up.new_key(asserts=ALL_ASSERTS) for _ in range(6)]

    def ask(number):
        body = user("hi", model="plain", sluice={"prompt": alias})
        answer = up.chat(keys[number % 6], body, headers={"x-sluice-subject": f"u{number % 6}"})
        return answer.headers.get("x-sluice-experiment"), answer.headers["x-sluice-request-id"]

    eventually("the experiment is served", lambda: ask(0)[0])
    asked = [(number, *ask(number)) for number in range(24)]
    arms = [{arm for at, arm, _ in asked if at % 6 == number} for number in range(6)]
    if unit != "request":
        assert all(len(of_unit) == 1 for of_unit in arms), arms
    for _, arm, run in asked:
        # Two sources, who agree; of one unit it is one value all the same.
        for source in ["user", "judge"]:
            said = {"metric": "helpful", "value": arm == f"{name}/long", "run": run, "source": source}
            assert up.send("POST", "/v1/feedback", said, keys[0]).status == 202
    results = lambda: {a["arm"]: a for a in json.loads(store.run("experiment", "results", name, "--json").stdout)["arms"]}
    units = 24 if unit == "request" else 6
    eventually("feedback is stored", lambda: sum(a["values"] for a in results().values()) == units, 20)
    eventually("so are the runs", lambda: sum(a["runs"] for a in results().values()) >= 24, 20)
    found = results()
    assert sum(a["units"] for a in found.values()) >= units
    assert found["long"]["mean"] in (1.0, None) and found["short"]["mean"] in (0.0, None), found
    # Another source says otherwise of one run.
    _, arm, run = asked[0]
    said = {"metric": "helpful", "value": arm != f"{name}/long", "run": run, "source": "third"}
    assert up.send("POST", "/v1/feedback", said, keys[0]).status == 202
    arm = arm.split("/")[1]
    eventually("it counts", lambda: results()[arm]["mean"] not in (0.0, 1.0), 20)
    assert results()[arm]["values"] == found[arm]["values"]
    store.run("experiment", "stop", name)


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
