"""A prompt's life as its team lives it, through the API and the command line, on both databases: the twelve things that
are looked at by hand before a release elsewhere; settings that prompts follow; what other teams may see; calls that are
cut short."""

import json
import random
from contextlib import suppress

import httpx
import pytest

from conftest import config_for
from harness import ALL_ASSERTS, Edge, Store, eventually, user
from test_store_api import EDGE, client, content, good, operator, refused

@pytest.fixture(params=["sqlite", "postgres"])
def url(request):
    return request.getfixturevalue("postgres").database() if request.param == "postgres" else None


@pytest.fixture
def up(url, tmp_path, mock, started):
    store = Store(tmp_path / "data", url)
    store.put("asked", "Version one.")
    edge = started(Edge(store, config_for(mock, EDGE)))
    edge.token = (store.folder / "operator.token").read_text().strip()
    edge.key = edge.new_key(asserts=ALL_ASSERTS)
    return edge


@pytest.fixture
def api(up):
    with client(up, up.token) as root:
        yield root


def served(up, **steering):
    answer = up.send("POST", "/v1/explain", user("hi", model="asked", sluice=steering), up.key)
    return answer.json()["body"]["messages"][0]["content"] if answer.status == 200 else answer.error["code"]


def deploy(api, alias, **more):
    return api.post(f"/artifacts/prompt/{alias}/deployments", json={"environment": "production", **more})


def test_the_twelve_checks_before_a_release(up, api, url, tmp_path, request):
    store = up.store
    # 1. A prompt is made.
    good(api.post("/artifacts/prompt", json={"alias": "desk", "content": content("Desk one.")}), 201)
    good(deploy(api, "desk"), 201)
    eventually("the new prompt is served", lambda: served(up, prompt="desk") == "Desk one.")
    # 2, 3. It is edited, and that is in force without a restart of anything.
    pid = up.pid
    good(api.post("/artifacts/prompt/desk/versions", json={"content": content("Desk two."), "note": "shorter"}), 201)
    good(deploy(api, "desk"), 201)
    eventually("the edit is served", lambda: served(up, prompt="desk") == "Desk two.")
    assert up.pid == pid
    # 4. Its history is right.
    history = good(api.get("/artifacts/prompt/desk/versions"))["versions"]
    assert [(v["number"], v["note"], v["author"]) for v in history] == [(2, "shorter", "operator"), (1, "", "operator")]
    # 5. It goes back to an earlier version.
    good(api.post("/artifacts/prompt/desk/rollback", json={"environment": "production", "version": 1}), 201)
    eventually("the old version is served", lambda: served(up, prompt="desk") == "Desk one.")
    # 6. What is used is not deleted.
    refused(api.delete("/artifacts/prompt/desk"), 409, "PROMPT_409", "prompt_in_use", "deployed to `production`")
    # 7, 8. An export has everything, and an import heeds names that are taken.
    file = store.scratch / "all.json"
    store.run("export", file)
    exported = json.loads(file.read_text())["artifacts"]
    assert {one["alias"] for one in exported} == {one["alias"] for one in good(api.get("/artifacts/prompt"))["artifacts"]}
    other = Store(tmp_path / "other", request.getfixturevalue("postgres").database() if url else None)
    other.put("desk", "Another desk.", deploy=False)
    assert "`desk` exists already" in other.run("import", file, code=2).stderr
    report = json.loads(other.run("import", file, "--on-conflict", "rename", "--json").stdout)
    assert report["renamed"] == [{"from": "desk", "to": "desk-2"}] and report["created"] == ["asked"]
    # 9, 10. A consumer chooses a prompt, and gets that one.
    assert (served(up), served(up, prompt="desk")) == ("Version one.", "Desk one.")
    assert served(up, prompt="no-such") == "prompt_not_found"
    # 11, 12. A migration succeeds, and its files are never read again.
    files = tmp_path / "files"
    files.mkdir()
    (files / "moved.jinja").write_text("From a file.")
    store.run("import", files, "--deploy", "production")
    status = good(api.get("/migrations"))["migrations"][0]
    assert (status["status"], status["templates_migrated"], status["error_message"]) == ("completed", 1, "")
    eventually("the moved prompt is served", lambda: served(up, prompt="moved") == "From a file.")
    (files / "moved.jinja").write_text("Changed.")
    up.restart()
    up.wait_ready()
    assert served(up, prompt="moved") == "From a file."


def test_a_persona_is_served_as_a_prompt_is(up, api):
    persona = content("You are Mira, who repairs boats.", metadata={"voice": "low", "greeting": "Ahoy."})
    good(api.post("/artifacts/persona", json={"alias": "mira", "content": persona}), 201)
    good(api.post("/artifacts/persona/mira/deployments", json={"environment": "production"}), 201)
    eventually("it is served", lambda: served(up, prompt="mira") == "You are Mira, who repairs boats.")
    kept = good(api.get("/artifacts/persona/mira/versions/1"))["content"]
    assert kept["metadata"] == {"voice": "low", "greeting": "Ahoy."}
    # What agents, policies and flows are made of comes back as it was written, with what they name.
    tool = {"description": "Find a boat", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}}
    agent = {"persona": "mira", "links": [{"kind": "tool", "alias": "find"}], "n": 1.5, "deep": [None, {"a": True}]}
    for kind, alias, body in [("tool", "find", tool), ("agent", "clerk", agent)]:
        good(api.post(f"/artifacts/{kind}", json={"alias": alias, "content": body}), 201)
        assert good(api.get(f"/artifacts/{kind}/{alias}/versions/1"))["content"] == body
    refused(api.delete("/artifacts/tool/find"), 409, "TOOL_409", "tool_in_use", "agent `clerk@1` names it")


def test_a_variable_follows_a_public_setting(up, api):
    hours = {"hours": {"type": "string", "setting": "support_hours"}}
    text = content("We answer {{ hours }}.", variables=hours)
    good(api.post("/artifacts/prompt", json={"alias": "support", "content": text}), 201)
    refused(deploy(api, "support"), 400, "REQUEST_400", None, "`support_hours`", "not public")
    good(api.put("/settings/support_hours", json={"value": "from 9 to 5"}))
    refused(deploy(api, "support"), 400, "REQUEST_400", None, "`support_hours`", "not public")
    good(api.put("/settings/support_hours", json={"value": "from 9 to 5", "public": True}))
    good(deploy(api, "support"), 201)
    eventually("it says the setting", lambda: served(up, prompt="support") == "We answer from 9 to 5.")
    good(api.put("/settings/support_hours", json={"value": "from 8 to 4", "public": True}))
    eventually("it follows the setting", lambda: served(up, prompt="support") == "We answer from 8 to 4.")
    # Who asks may say otherwise; it is a default.
    assert served(up, prompt="support", variables={"hours": "never"}) == "We answer never."
    shown = good(api.post("/render", json={"alias": "support"}))
    assert shown["messages"][0]["content"] == "We answer from 8 to 4."
    # What would break is refused: another type, privacy, deletion.
    for body in [{"value": 7, "public": True}, {"value": None, "public": True}, {"value": "from 8 to 4"}]:
        refused(api.put("/settings/support_hours", json=body), 400, "REQUEST_400", None, "`support`")
    refused(api.delete("/settings/support_hours"), 400, "REQUEST_400")
    assert served(up, prompt="support") == "We answer from 8 to 4."
    # In a protected environment a setting is what is in force there, too.
    good(api.put("/protected-environments", json={"environments": ["production"]}))
    writer, _ = operator(up, "read", "write")
    deployer, _ = operator(up, "read", "write", "deploy")
    changed = {"value": "from 7 to 3", "public": True}
    for path in ["support_hours", "another"]:
        refused(writer.put(f"/settings/{path}", json=changed), 403, "SCOPE_403", None, "`deploy`")
    good(writer.put("/settings/another", json={"value": 1}))
    refused(writer.delete("/settings/support_hours"), 403, "SCOPE_403", None, "`deploy`")
    refused(deployer.put("/settings/support_hours", json=changed), 403, "SCOPE_403", None, "`production` is protected")
    good(deployer.put("/settings/another", json=changed))
    good(api.put("/settings/support_hours", json=changed))
    eventually("it follows again", lambda: served(up, prompt="support") == "We answer from 7 to 3.")


def test_what_is_public_may_be_read_by_other_tenants_and_nothing_else(up, api):
    good(api.post("/tenants", json={"name": "theirs"}), 201)
    other, _ = operator(up, "read", "write", tenant="theirs")
    usual = good(api.get("/tenants"))["tenants"]
    own = next(name for name in usual if name != "theirs")
    place = "/artifacts/prompt/asked"
    paths = [place, f"{place}/versions", f"{place}/versions/1", f"{place}/statistics"]
    for path in [*paths, "/artifacts/prompt/no-such"]:
        refused(other.get(path, params={"tenant": own}), 403, "TENANT_403")
    good(api.patch(place, json={"visibility": "public"}))
    for path in paths:
        assert good(other.get(path, params={"tenant": own})) == good(api.get(path))
    for path in ["/artifacts/prompt", f"{place}/draft", f"{place}/usage", "/export", "/keys", "/runs"]:
        refused(other.get(path, params={"tenant": own}), 403, "TENANT_403")
    refused(other.patch(place, params={"tenant": own}, json={"title": "x"}), 403, "TENANT_403")
    refused(other.get(place), 404, "PROMPT_404")
    good(api.patch(place, json={"visibility": "private"}))
    refused(other.get(place, params={"tenant": own}), 403, "TENANT_403")


def test_the_store_key_is_changed_and_the_database_fetched_by_the_api(up, api, url, tmp_path):
    good(api.put("/secrets/upstream", json={"origin": "https://example.com", "value": "sk-0123456789abcdef"}))
    before = good(api.get("/secrets"))["secrets"][0]["key_id"]
    bound, _ = operator(up, "secrets", "admin", tenant=good(api.get("/tenants"))["tenants"][0])
    reader, _ = operator(up, "read")
    for who, code in [(bound, "TENANT_403"), (reader, "SCOPE_403")]:
        refused(who.post("/secret-key/rotate"), 403, code)
        refused(who.get("/backup"), 403, code)
    assert good(api.post("/secret-key/rotate")) == {"secrets": 1}
    assert good(api.get("/secrets"))["secrets"][0]["key_id"] != before
    assert [e["actor"] for e in good(api.get("/events"))["events"] if e["kind"] == "secret.rotated"][:1] == ["operator"]
    answer = api.get("/backup")
    if url:
        refused(answer, 400, "REQUEST_400", None, "pg_dump")
        return
    assert answer.headers["content-type"] == "application/vnd.sqlite3"
    file = tmp_path / "fetched.db"
    file.write_bytes(answer.content)
    again = Store(tmp_path / "again")
    again.run("store", "restore", file)
    assert [one["alias"] for one in json.loads(again.run("prompt", "list", "--json").stdout)] == ["asked"]
    assert not [path for path in up.store.folder.iterdir() if path.name.startswith(".tmp")]


def test_a_call_with_a_key_is_made_once_though_the_process_is_killed(up, api):
    """Each call adds a revision; one whose answer was lost is repeated with its key until it is answered."""
    chance, cut, lost = random.Random(7), 0, []
    good(api.post("/artifacts/prompt/asked/versions", json={"content": content("Version two.")}), 201)
    before = len(good(api.get("/artifacts/prompt/asked/deployments"))["deployments"])
    for turn in range(25):
        named, body = {"idempotency-key": f"turn-{turn}"}, {"environment": "production", "version": 1 + turn % 2}
        url = f"http://{up.admin}/api/v1/artifacts/prompt/asked/deployments"
        headers = {**named, "authorization": f"Bearer {up.token}"}
        killed = chance.random() < 0.5
        if killed:
            # The call is on its way; the process dies some milliseconds later.
            with httpx.Client() as caller, suppress(httpx.HTTPError):
                with suppress(httpx.ReadTimeout):
                    caller.post(url, json=body, headers=headers, timeout=chance.choice([0.001, 0.004, 0.008, 0.02]))
            cut += 1
            up.restart(kill=True)
            up.wait_ready()
        answer = httpx.post(url, json=body, headers=headers, timeout=20)
        if answer.status_code == 409:
            # It was cut short; for a while nobody can know that it does not run.
            refused(answer, 409, "REVISION_409", "revision_conflict", "still runs")
            lost.append((body, headers))
            continue
        good(answer, 201)
    repeat = lambda body, headers: httpx.post(url, json=body, headers=headers, timeout=20)
    for body, headers in lost:
        # Made before its process died, or made now.
        eventually("the call ends", lambda: (a := repeat(body, headers)).status_code == 201 or "CALL_409" in a.text, 40, 1)
    assert len(good(api.get("/artifacts/prompt/asked/deployments?limit=1000"))["deployments"]) - before == 25
    assert cut > 5
