"""Going back to an epoch, and erasures that overtake everything."""

import json

import pytest

from harness import ALL_ASSERTS, BEHIND_MOCK, Edge, Store, at_another_time, eventually, request, user

CONFIG = BEHIND_MOCK + """
[routes.ask]
provider = "mock"
model = "m"
prompt = "greeting"
collections = ["facts"]
scrub = ["ALL"]
scrub_session_seconds = 3600
"""


@pytest.fixture(params=["sqlite", "postgres"])
def up(request, tmp_path, mock, started):
    url = request.getfixturevalue("postgres").database() if request.param == "postgres" else None
    store = Store(tmp_path / "data", url)
    store.put("greeting", "One.")
    store.ingest_texts("facts", tents="# Tents\n\nKeep a tent dry.\n", boots="# Boots\n\nGrease the boots.\n")
    edge = started(Edge(store, CONFIG.replace("MOCK/", f"{mock.base}/")))
    edge.key = edge.new_key("first", asserts=ALL_ASSERTS)
    return edge


def prompt(edge, key=None):
    body = edge.send("POST", "/v1/explain", user("How do I keep a tent dry?", model="ask"), key or edge.key).json()
    return body["body"]["messages"][0]["content"], [hit["id"] for hit in body["context"]["hits"]]


def test_an_epoch_is_gone_back_to_with_what_was_revoked_since_still_gone(up):
    store = up.store
    doomed = up.new_key("doomed", asserts=ALL_ASSERTS)
    before = up.epoch()
    assert prompt(up)[0] == "One."
    store.put("greeting", "Two.")
    eventually("the second version is in force", lambda: prompt(up)[0] == "Two.")
    store.run("key", "revoke", "doomed")
    store.run("forget", "facts", "tents.md")
    later = up.new_key("later", asserts=ALL_ASSERTS)
    eventually("the key is revoked", lambda: up.send("GET", "/v1/models", key=doomed).status == 401)

    said = store.run("epoch", "rollback", before).stdout
    assert f"has the prompts of epoch {before}" in said
    eventually("the old prompt is in force", lambda: prompt(up)[0] == "One.")
    assert up.epoch() > before, "a roll-back is a new epoch"
    # What was revoked, made or removed since then stays so.
    assert up.send("GET", "/v1/models", key=doomed).status == 401
    text, found = prompt(up, later)
    assert text == "One." and "tents.md" not in found
    # What is deployed meanwhile waits.
    store.put("greeting", "Three.")
    other = up.new_key("other", asserts=ALL_ASSERTS)
    assert prompt(up, other)[0] == "One."
    listed = up.api("GET", "epochs").json()["epochs"]
    # Kept is the epoch whose prompts that one had.
    assert [one["epoch"] for one in listed if one["rolled_back_to"]] == [max(one["epoch"] for one in listed if one["epoch"] <= before)]
    assert [epoch["epoch"] for epoch in listed] == sorted((epoch["epoch"] for epoch in listed), reverse=True)
    assert "its prompts are in force" in store.run("epoch", "list").stdout
    # An edge that starts now serves the same.
    up.restart()
    up.wait_ready()
    assert prompt(up)[0] == "One."
    assert up.api("DELETE", "epochs/rollback").status == 200
    eventually("what is deployed is in force again", lambda: prompt(up)[0] == "Three.")
    # By the API, and what cannot be.
    assert up.api("POST", f"epochs/{before}/rollback").status == 200
    eventually("the old prompt is in force", lambda: prompt(up)[0] == "One.")
    store.run("epoch", "resume")
    eventually("what is deployed is in force again", lambda: prompt(up)[0] == "Three.")
    refused = up.api("POST", "epochs/999999/rollback")
    assert refused.status == 400 and "is not kept" in refused.json()["message"]
    assert "is not kept" in store.run("epoch", "rollback", 999999, code=2).stderr
    # It is everybody's, so not for one who belongs to a tenant; and where something is protected, not for everybody.
    for scopes, bound in [("admin,read", ["--bound"]), ("admin,read", [])]:
        assert up.api("PUT", "protected-environments", {"environments": ["production"]}).status == 200
        said = store.run("operator", "create", f"o{len(bound)}", "--scopes", scopes, *bound).stdout
        headers = {"authorization": f"Bearer {said.split()[-1]}"}
        assert request(up.admin, "POST", f"/api/v1/epochs/{before}/rollback", None, headers).status == 403, said
        assert request(up.admin, "GET", "/api/v1/epochs", None, headers).status == 200
    kinds = [event["kind"] for event in up.api("GET", "events").json()["events"]]
    assert "snapshot.rolled_back" in kinds


def test_epochs_to_go_back_to_are_those_of_prompts(up):
    listed = lambda: [one["epoch"] for one in up.api("GET", "epochs").json()["epochs"]]
    before = listed()
    for n in range(3):
        up.new_key(f"another{n}")
    up.store.run("key", "revoke", "another0")
    assert listed() == before
    up.store.put("greeting", "Two.")
    eventually("a change of a prompt is kept", lambda: len(listed()) == len(before) + 1)


def test_what_sessions_keep_of_an_erased_subject_is_forgotten(up):
    def said(subject, said, **mock):
        headers = {"x-sluice-session": "s", "x-sluice-subject": subject}
        return up.chat(up.key, user(said, model="ask"), mock=mock or None, headers=headers).text

    for subject in ("ann", "ben"):
        said(subject, f"I am {subject}@example.com")
    echo = {"reply": {"text": "Hello <EMAIL_1>!"}}
    assert said("ann", "again", **echo) == "Hello ann@example.com!"
    feedback = {"subject": "ann", "metric": "helpful", "value": True}
    assert up.send("POST", "/v1/feedback", feedback, up.key).status == 202
    assert up.api("DELETE", "subjects/ann").status == 200
    eventually("the session has forgotten", lambda: said("ann", "again", **echo) == "Hello <EMAIL_1>!", 10)
    assert said("ben", "again", **echo) == "Hello ben@example.com!"
    # After a start, too; and a new session of the same subject keeps what is said then.
    up.restart()
    up.wait_ready()
    assert said("ann", "again", **echo) == "Hello <EMAIL_1>!"
    assert said("ben", "again", **echo) == "Hello ben@example.com!"
    said("ann", "Now I am anna@example.com")
    assert said("ann", "again", **echo) == "Hello anna@example.com!"
    up.restart()
    up.wait_ready()
    assert said("ann", "again", **echo) == "Hello anna@example.com!"


def test_what_is_said_of_an_erased_subject_s_runs_is_not_kept(up):
    def ask(subject):
        answer = up.chat(up.key, user("hello", model="ask"), headers={"x-sluice-session": f"s-{subject}", "x-sluice-subject": subject})
        return answer.headers["x-sluice-request-id"]

    def say(comment, **unit):
        said = {**unit, "metric": "helpful", "value": True, "comment": comment}
        assert up.send("POST", "/v1/feedback", said, up.key).status == 202

    kept = lambda: {said["comment"] for said in up.api("GET", "feedback?limit=1000").json()["feedback"]}
    runs = {subject: ask(subject) for subject in ["ann", "ben"]}
    for subject, run in runs.items():
        say(f"{subject} by run", run=run)
        say(f"{subject} by session", session=f"s-{subject}")
    every = {f"{subject} by {unit}" for subject in runs for unit in ["run", "session"]}
    eventually("all of it is stored", lambda: kept() == every, 20)
    assert up.api("GET", f"feedback?run={runs['ann']}").json()["feedback"][0]["comment"] == "ann by run"
    assert len(up.api("GET", "feedback?metric=helpful&limit=2").json()["feedback"]) == 2
    assert up.api("GET", "feedback?metric=none").json()["feedback"] == []
    assert up.api("DELETE", "subjects/ann").status == 200
    assert kept() == {"ben by run", "ben by session"}
    # Said afterwards, of what was before.
    say("late of ann", run=runs["ann"])
    say("late of ann's session", session="s-ann")
    say("late of ben", run=runs["ben"])
    eventually("what may be kept is", lambda: "late of ben" in kept(), 20)
    assert not [comment for comment in kept() if "ann" in comment]
    # What is said long after it is nobody's that was erased.
    now, up.environment = up.environment, {**up.environment, **at_another_time("+20m")}
    up.restart()
    up.wait_ready()
    say("anew in ann's session", session="s-ann")
    eventually("it is kept", lambda: "anew in ann's session" in kept(), 20)
    up.environment = now
    up.restart()
    up.wait_ready()
    assert "late of ben" in up.store.run("feedback", "--metric", "helpful").stdout
    # What the prompt's version has brought.
    found = json.loads(up.store.run("prompt", "stats", "greeting", "--json").stdout)
    assert [(v["version"], v["runs"], v["errors"], v["success_rate"]) for v in found] == [(1, 2, 0, 1.0)]
    assert found == up.api("GET", "artifacts/prompt/greeting/statistics").json()["versions"]
    assert found[0]["feedback"] == [{"metric": "helpful", "count": 1, "mean": 1.0}]
    # Page by page.
    every = [run["id"] for run in up.api("GET", "runs").json()["runs"]]
    first = up.api("GET", "runs?limit=1").json()["runs"][0]["id"]
    assert [first, *[run["id"] for run in up.api("GET", f"runs?before={first}").json()["runs"]]] == every
    assert up.api("GET", f"runs?before={'0' * 32}").status == 404


def test_an_erasure_is_heeded_though_nothing_can_be_fetched(tmp_path, mock, started):
    store = Store(tmp_path / "data")
    store.put("greeting", "One.")
    key = store.key(asserts=ALL_ASSERTS)
    store.publish()
    edge = started(Edge(store, CONFIG.replace("MOCK/", f"{mock.base}/"), command="serve"))
    headers = {"x-sluice-session": "s", "x-sluice-subject": "ann"}
    echo = {"reply": {"text": "Hello <EMAIL_1>!"}}
    answer = edge.chat(key, user("I am ann@example.com", model="ask"), headers=headers)
    assert answer.status == 200, answer.body
    assert edge.chat(key, user("again", model="ask"), mock=echo, headers=headers).text == "Hello ann@example.com!"
    # The new snapshot needs an object that is gone before the edge can fetch it.
    objects = store.folder / "objects" / "objects"
    known = {path.name for path in objects.iterdir()}
    edge.child.send_signal(19)
    try:
        store.put("greeting", "Two.")
        store.run("forget", "--subject", "ann")
        store.publish()
        for path in objects.iterdir():
            if path.name not in known:
                path.unlink()
    finally:
        edge.child.send_signal(18)
    forgotten = lambda: edge.chat(key, user("again", model="ask"), mock=echo, headers=headers).text == "Hello <EMAIL_1>!"
    eventually("the session has forgotten", forgotten, 10)
    assert "One." in edge.send("POST", "/v1/explain", user("x", model="ask"), key).json()["body"]["messages"][0]["content"]
