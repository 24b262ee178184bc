"""The commands, as a person or a script runs them."""

import json
import re
import subprocess

import pytest

from harness import BINARY, Store, files_below


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data")


def put(store, text, alias="greeting", code=0):
    file = store.scratch / "greeting.jinja"
    file.write_text(text)
    return store.run("prompt", "put", alias, file, code=code)


def test_putting_a_prompt_counts_versions_and_unchanged_content_makes_none(store):
    assert put(store, "one").stdout.strip() == "greeting version 1"
    assert put(store, "one").stdout.strip() == "greeting version 1"
    assert put(store, "two").stdout.strip() == "greeting version 2"
    listed = store.run("prompt", "list").stdout
    assert re.search(r"greeting\s+2 versions", listed), listed


def test_show_prints_the_template_of_a_version(store):
    put(store, "one {{ a }}")
    put(store, "two {{ b }}")
    assert "two {{ b }}" in store.run("prompt", "show", "greeting").stdout
    shown = store.run("prompt", "show", "greeting", "--version", 1).stdout
    assert "one {{ a }}" in shown and "two" not in shown


def in_force(store, environment="production"):
    found = re.search(rf"{environment}=(\d+)", store.run("prompt", "list").stdout)
    return found and int(found[1])


def test_deploy_and_rollback_move_the_version_in_force(store):
    for text in ("one", "two", "three"):
        put(store, text)
    assert in_force(store) is None
    store.run("prompt", "deploy", "greeting", "--version", 1)
    assert in_force(store) == 1
    store.run("prompt", "deploy", "greeting")
    assert in_force(store) == 3
    store.run("prompt", "rollback", "greeting")
    assert in_force(store) == 1
    store.run("prompt", "rollback", "greeting", "--to", 2)
    assert in_force(store) == 2
    store.run("prompt", "deploy", "greeting", "--version", 3, "--environment", "staging")
    assert (in_force(store), in_force(store, "staging")) == (2, 3)


def test_unknown_aliases_and_versions_are_named(store):
    put(store, "one")
    for arguments in (
        ("deploy", "greeting", "--version", 9), ("deploy", "nobody"), ("show", "nobody"), ("rollback", "nobody"),
        ("rollback", "greeting"),
    ):
        done = store.run("prompt", *arguments, code=None)
        assert done.returncode not in (0, 101), arguments
        assert arguments[1] in done.stderr, done.stderr


@pytest.mark.parametrize(
    "text, line",
    [("Hi {{ topic", 1), ("ok\n{% if x %}", 2), ("ok\nok\n{{ 1 + }}", 3)],
)
def test_a_template_with_a_syntax_error_is_refused_with_its_line(store, text, line):
    done = put(store, text, code=None)
    assert done.returncode not in (0, 101)
    assert "greeting.jinja" in done.stderr
    assert re.search(rf"line {line}\b|:{line}\b", done.stderr), done.stderr
    assert "greeting" not in store.run("prompt", "list").stdout


def test_front_matter_that_is_no_toml_is_refused(store):
    done = put(store, "+++\n[variables.\n+++\nhi", code=None)
    assert done.returncode not in (0, 101)
    assert "greeting.jinja" in done.stderr


def test_the_key_is_printed_once_and_never_again(store):
    printed = store.run("key", "create", "one").stdout
    key = re.search(r"sk-sluice-[0-9a-f]+", printed)[0]
    record = json.loads(store.run("key", "create", "two", "--json").stdout)
    assert set(record) == {"id", "name", "key"}
    for listed in (store.run("key", "list").stdout, store.run("key", "list", "--json").stdout):
        assert "one" in listed and "two" in listed
        for secret in (key, record["key"]):
            # A prefix for recognition is fine; half of the key is not.
            assert secret[: len(secret) // 2] not in listed
            assert secret[-12:] not in listed
    for file, content in files_below(store.folder):
        assert key.removeprefix("sk-sluice-").encode() not in content, file


def test_a_key_is_revoked_by_name_and_an_unknown_one_is_named(store):
    store.run("key", "create", "one")
    store.run("key", "revoke", "one")
    assert json.loads(store.run("key", "list", "--json").stdout)[0]["revoked_at"]
    done = store.run("key", "revoke", "nobody", code=None)
    assert done.returncode not in (0, 101) and "nobody" in done.stderr


def test_an_unknown_assert_is_refused(store):
    done = store.run("key", "create", "one", "--asserts", "variables,evrything", code=None)
    assert done.returncode not in (0, 101) and "evrything" in done.stderr


def test_a_key_without_routes_may_use_all_and_one_with_routes_only_those(store):
    assert json.loads(store.run("key", "create", "one", "--routes", "a,b", "--json").stdout)
    assert json.loads(store.run("key", "create", "two", "--json").stdout)
    listed = {row["name"]: row for row in json.loads(store.run("key", "list", "--json").stdout)}
    assert listed["two"]["routes"] == ["*"] and listed["two"]["models"] == ["*"]
    assert listed["one"]["routes"] == ["a", "b"]
    assert listed["one"]["models"] == [], "a key that is bound to routes names no models beside them"


def write_documents(store):
    folder = store.scratch / "kb"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# Apples\n\nApples are red fruit.\n")
    (folder / "deep/b.txt").write_text("Bananas are yellow fruit.")
    (folder / "c.jsonl").write_text(
        '{"id":"c1","title":"Cherries","text":"Cherries are small fruit."}\n'
        '{"_id":"c2","title":"Dates","text":"Dates are sweet fruit."}\n'
    )
    (folder / "ignored.png").write_bytes(b"\x89PNG")
    return folder


def test_ingesting_twice_finds_everything_unchanged(store):
    folder = write_documents(store)
    first = store.run("ingest", "fruit", folder).stdout
    assert re.search(r"fruit: 4 documents, 4 chunks, 4 new, 0 unchanged", first), first
    again = store.ingest("fruit", folder)
    assert {k: again[k] for k in ("collection", "documents", "chunks", "new", "unchanged")} == {
        "collection": "fruit", "documents": 4, "chunks": 4, "new": 0, "unchanged": 4,
    }


def test_a_changed_document_is_new_and_its_old_text_is_gone(store):
    folder = write_documents(store)
    store.ingest("fruit", folder)
    (folder / "a.md").write_text("# Apples\n\nApples are green vegetables.\n")
    again = store.ingest("fruit", folder)
    assert (again["documents"], again["new"], again["unchanged"]) == (4, 1, 3)
    store.run("publish")
    found = store.run("search", "fruit", "apples").stdout
    assert "green vegetables" in found and "red fruit" not in found


def test_a_faulty_line_of_jsonl_is_named(store):
    file = store.scratch / "bad.jsonl"
    file.write_text('{"id":"1","text":"fine"}\n{"id":\n')
    done = store.run("ingest", "fruit", file, code=None)
    assert done.returncode not in (0, 101)
    assert re.search(r"bad\.jsonl:2|bad\.jsonl.*line 2", done.stderr), done.stderr


def test_a_path_that_is_not_there_is_named(store):
    done = store.run("ingest", "fruit", "/nowhere/at/all", code=None)
    assert done.returncode not in (0, 101) and "/nowhere/at/all" in done.stderr


def test_search_prints_ranks_best_first(store):
    store.ingest("fruit", write_documents(store))
    store.run("publish")
    rows = [line.split() for line in store.run("search", "fruit", "yellow bananas", "-k", 3).stdout.splitlines()]
    ranks = [row for row in rows if row and row[0].isdigit()]
    assert [int(row[0]) for row in ranks] == [1, 2, 3]
    assert "b.txt" in " ".join(ranks[0])
    scores = [float(row[1]) for row in ranks]
    assert scores == sorted(scores, reverse=True)


def test_searching_an_unknown_collection_names_it(store):
    store.run("publish")
    done = store.run("search", "nobody-s", "x", code=None)
    assert done.returncode not in (0, 101) and "nobody-s" in done.stderr


def test_queries_from_a_file_make_a_run_of_tab_separated_rows(store):
    store.ingest("fruit", write_documents(store))
    store.run("publish")
    queries = store.scratch / "queries.jsonl"
    queries.write_text('{"id":"q1","text":"sweet dates"}\n{"_id":"q2","text":"red apples"}\n')
    run = store.scratch / "run.tsv"
    store.run("search", "fruit", "--queries", queries, "-k", 2, "--run", run)
    rows = [line.split("\t") for line in run.read_text().splitlines()]
    assert [(r[0], r[2]) for r in rows] == [("q1", "1"), ("q1", "2"), ("q2", "1"), ("q2", "2")]
    assert (rows[0][1], rows[2][1]) == ("c2", "a.md")
    assert all(float(r[3]) <= 1.1 for r in rows)


def test_the_data_folder_may_be_named_by_the_environment(store):
    import os

    put(store, "one")
    done = subprocess.run(
        [BINARY, "prompt", "list"], capture_output=True, text=True, timeout=20,
        env={**os.environ, "SLUICE_DATA": str(store.folder)},
    )
    assert "greeting" in done.stdout


def test_tenants_do_not_see_each_other_s_things(store):
    put(store, "one")
    # A name that is mistyped makes nothing.
    assert "`sluice tenant create other`" in store.run("prompt", "list", "--tenant", "other", code=2).stderr
    store.run("tenant", "create", "other")
    assert store.run("tenant", "list").stdout.split() == ["default", "other"]
    assert "greeting" not in store.run("prompt", "list", "--tenant", "other").stdout
    store.run("key", "create", "mine", "--tenant", "other")
    assert "mine" not in store.run("key", "list").stdout


def test_up_seeds_an_empty_store_from_samples_and_prints_one_key(store, mock, started, tmp_path):
    from conftest import CONFIG, config_for
    from harness import Edge, eventually, free_port, request, user

    sample = tmp_path / "sample"
    (sample / "prompts").mkdir(parents=True)
    (sample / "prompts/support-bot.jinja").write_text("You help.")
    (sample / "knowledge/handbook").mkdir(parents=True)
    (sample / "knowledge/handbook/refunds.md").write_text("# Refunds\n\nRefunds take five working days.\n")
    (sample / "knowledge/contacts").mkdir(parents=True)
    (sample / "knowledge/contacts/a.md").write_text("# A\n\nA contact.\n")
    config = config_for(mock, "\n".join(line for line in CONFIG.splitlines() if line != 'prompt = "guide"'))
    edge = Edge.__new__(Edge)
    edge.store, edge.base, edge.admin = store, f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    edge.config_file = store.scratch / "seeded.toml"
    edge.write_config(config)
    from harness import Process

    arguments = ["up", "--config", edge.config_file, "--data", store.folder, "--sample", sample]
    Process.__init__(started(edge), "up", arguments, store.scratch)
    edge.wait_ready(30)
    key = eventually("the key is printed", lambda: re.findall(r"sk-sluice-[0-9a-f]+", edge.log()), 10)
    assert len(set(key)) == 1
    answer = edge.chat(edge.wait_key(key[0]), user("How long do refunds take?", model="support-bot"), {"reply": "echo"})
    assert "You help." in answer.text and "five working days" in answer.text
    # A second start finds the store filled and makes no other key.
    edge.restart()
    edge.wait_ready(10)
    assert len(json.loads(store.run("key", "list", "--json").stdout)) == 1
    assert request(edge.base, "GET", "/healthz").status == 200


def test_up_without_a_configuration_uses_its_own_mock(store, started):
    from harness import Process, eventually, free_port, request

    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment = {"SLUICE__SERVER__LISTEN": listen, "SLUICE__SERVER__ADMIN_LISTEN": admin}
    key = store.key()
    process = started(Process("up", ["up", "--data", store.folder], store.scratch, environment))
    eventually("it is ready", lambda: process.must_run() or request(admin, "GET", "/readyz").status == 200, 20)
    body = json.dumps({"model": "some-model", "messages": [{"role": "user", "content": "hi ann@brightwater.com"}]})

    def served():
        answer = request(listen, "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
        return answer.status == 200 and answer

    answer = eventually("the built-in provider answers", served, 10)
    assert answer.text == "hi ann@brightwater.com"
