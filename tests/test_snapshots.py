"""Publishing, following, and never serving less than the last good snapshot."""

import json
import shutil
import subprocess
import threading
import uuid

import pytest

from conftest import CONFIG, SUPPORT_BOT_RENDERED, config_for, fill, note
from harness import Edge, Store, copy_tree, eventually, mark, request, user

HI = user("hi", model="guide")


def readiness(edge):
    """The status of /readyz; raises an OSError while the admin listener is not up."""
    return request(edge.admin, "GET", "/readyz").status


def told(edge, mock, key, model="guide"):
    """The first message that the provider gets, and the answer's prompt header."""
    tag = mark()
    answer = edge.chat(key, user("hi", model=model), mark=tag)
    assert answer.status == 200, answer
    sent = json.loads(mock.received(tag)["body"])
    return sent["messages"][0]["content"], answer.headers["x-sluice-prompt"]


@pytest.fixture(scope="module")
def own(folder, mock):
    """An `up` whose prompts this module changes."""
    store = fill(Store(folder / "changing"))
    key = store.key()
    edge = Edge(store, config_for(mock))
    edge.key = edge.wait_key(key)
    yield edge
    edge.stop()


def test_a_deploy_and_a_rollback_become_visible_within_seconds(own, mock):
    first = told(own, mock, own.key)
    version = own.store.put("guide", "The second text.")
    wanted = ("The second text.", f"guide@{version}")
    eventually("the new version is served", lambda: told(own, mock, own.key) == wanted, 5)
    own.store.run("prompt", "rollback", "guide")
    eventually("the old version is served", lambda: told(own, mock, own.key) == first, 5)


def test_a_version_that_is_only_put_is_not_served(own, mock):
    before = told(own, mock, own.key)
    own.store.put("guide", "Never deployed.", deploy=False)
    # A later change that is visible shows that a snapshot with the undeployed version is in force.
    own.new_key()
    assert told(own, mock, own.key) == before


def test_an_environment_has_its_own_version(own, mock):
    own.store.put("guide", "Only for staging.", environment="staging")
    key = own.new_key(asserts="environment")
    tag = mark()
    answer = own.chat(key, user("hi", model="guide", sluice={"environment": "staging"}), mark=tag)
    assert answer.status == 200, answer
    assert json.loads(mock.received(tag)["body"])["messages"][0]["content"] == "Only for staging."
    assert told(own, mock, own.key)[0] != "Only for staging."


def test_a_new_document_is_recalled_within_seconds(own, mock):
    word = f"zyxgort{uuid.uuid4().hex[:6]}"
    own.store.ingest_texts("handbook", **{word: f"# {word}\n\nThe {word} is kept in hall nine.\n"})

    def recalled():
        tag = mark()
        own.chat(own.key, user(f"where is the {word}? {uuid.uuid4().hex}", model="knowing"), mark=tag)
        return "hall nine" in mock.received(tag)["body"]

    eventually("the document is recalled", recalled, 6)


def test_swaps_under_load_fail_no_request(own):
    stop = threading.Event()
    statuses, epochs, faults = [], set(), []

    def load():
        import http.client

        connection = http.client.HTTPConnection(own.base, timeout=20)
        number = 0
        while not stop.is_set():
            number += 1
            body = json.dumps({**user(f"refunds {number} ann@brightwater.com", model="guide"), "stream": number % 2 == 0})
            try:
                connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {own.key}"})
                answer = connection.getresponse()
                text = answer.read()
            except Exception as error:
                faults.append(repr(error))
                connection.close()
                continue
            statuses.append(answer.status)
            epochs.add(answer.headers["x-sluice-epoch"])
            if answer.status != 200 or (number % 2 == 0 and b"[DONE]" not in text):
                faults.append((answer.status, text))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            epoch = own.epoch()
            own.store.put("guide", f"Text number {number}.")
            own.store.ingest_texts("contacts", **{f"n{number}": f"# N{number}\n\nNumber {number} of the refunds.\n"})
            eventually("a newer snapshot is served", lambda: own.epoch() > epoch)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    note(f"swap under load: {len(statuses)} requests over {len(epochs)} epochs, {len(faults)} failures")
    assert faults == []
    assert len(statuses) > 300
    assert len(epochs) >= 4


# An edge on its own, which follows a location and trusts one publisher.


@pytest.fixture
def publisher(folder):
    store = fill(Store(folder / f"publisher-{uuid.uuid4().hex[:6]}"))
    store.client_key = store.key()
    store.publish()
    return store


def follow(publisher, folder, mock, started, trusted=None, wait=True, snapshot="", name="serve"):
    """A location as an rsync would make it, and a `serve` on it."""
    location = folder / f"location-{uuid.uuid4().hex[:6]}"
    copy_tree(publisher.folder / "objects", location)
    edge_store = Store(folder / f"{name}-{uuid.uuid4().hex[:6]}")
    shutil.copy(publisher.folder / "pepper", edge_store.folder / "pepper")
    trusted = trusted or (publisher.folder / "publisher.pub").read_text().strip()
    table = (
        f'[snapshot]\nlocation = "file://{location}"\npoll_interval_milliseconds = 100\n'
        f'trusted_keys = ["{trusted}"]\n{snapshot}\n[providers.mock]'
    )
    config = config_for(mock, CONFIG.replace("[providers.mock]", table))
    edge = started(Edge(edge_store, config, "serve", wait=wait))
    edge.location = location
    return edge


def deliver(publisher, edge):
    """Copies what is published to the edge's location, the manifest last."""
    source = publisher.folder / "objects"
    copy_tree(source / "objects", edge.location / "objects")
    shutil.copy(source / "manifest", edge.location / "manifest.new")
    (edge.location / "manifest.new").replace(edge.location / "manifest")


def test_an_edge_with_its_own_folder_serves_what_was_published(publisher, folder, mock, started):
    edge = follow(publisher, folder, mock, started)
    assert told(edge, mock, publisher.client_key, "guide")[1] == "guide@1"
    answer = edge.chat(publisher.client_key, user("How long do refunds take?", model="support-bot",
                                                  sluice={"variables": {"topic": "tents"}}), {"reply": "echo"})
    assert SUPPORT_BOT_RENDERED in answer.text and "five working days" in answer.text
    assert not (edge.store.folder / "store.db").exists()
    publisher.put("guide", "A later text.")
    publisher.publish()
    deliver(publisher, edge)
    eventually("the edge follows", lambda: told(edge, mock, publisher.client_key)[0] == "A later text.", 5)


def flip(path, place=None):
    data = bytearray(path.read_bytes())
    place = len(data) // 2 if place is None else place
    data[place] ^= 0x20
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])


def damage_manifest(edge, how):
    manifest = edge.location / "manifest"
    if how == "truncated":
        cut(manifest)
    elif how == "tampered":
        flip(manifest)
    elif how == "empty":
        manifest.write_bytes(b"")
    elif how == "wrong-version":
        # The form begins with a magic of eight bytes and the version.
        data = bytearray(manifest.read_bytes())
        assert data[8] == 2, "the manifest's version is not where this test thinks"
        data[8] = 99
        manifest.write_bytes(data)


def refusals(edge):
    return edge.metric("sluice_snapshot_failures_total")


def check_old_snapshot_serves_on(edge, mock, key, before, named):
    """The fault is visible to the operator and invisible to the client."""
    log_length = len(edge.log())
    failures = refusals(edge)
    eventually("the refusal is counted or logged", lambda: refusals(edge) > failures or named(edge.log()[log_length:]), 5)
    eventually("the log names it", lambda: named(edge.log()), 5)
    for _ in range(5):
        assert told(edge, mock, key) == before
    assert readiness(edge) == 200


@pytest.mark.parametrize("how", ["truncated", "tampered", "empty", "wrong-version"])
def test_a_damaged_manifest_leaves_the_old_snapshot_in_force(publisher, folder, mock, started, how):
    edge = follow(publisher, folder, mock, started)
    before = told(edge, mock, publisher.client_key)
    publisher.put("guide", "A later text.")
    publisher.publish()
    good = (publisher.folder / "objects/manifest").read_bytes()
    # Damaged aside and moved into place, so that the edge never sees it whole.
    staged = edge.location.with_name(edge.location.name + "-staged")
    copy_tree(publisher.folder / "objects", staged)
    location, edge.location = edge.location, staged
    damage_manifest(edge, how)
    edge.location = location
    copy_tree(staged / "objects", location / "objects")
    (staged / "manifest").replace(location / "manifest")
    check_old_snapshot_serves_on(edge, mock, publisher.client_key, before, lambda log: "manifest" in log)
    # The edge recovers by itself when the publisher does.
    (location / "manifest.new").write_bytes(good)
    (location / "manifest.new").replace(location / "manifest")
    eventually("the repaired manifest is followed", lambda: told(edge, mock, publisher.client_key)[0] == "A later text.", 5)


@pytest.mark.parametrize("how", ["truncated", "tampered", "missing"])
def test_a_damaged_object_leaves_the_old_snapshot_in_force(publisher, folder, mock, started, how):
    edge = follow(publisher, folder, mock, started)
    before = told(edge, mock, publisher.client_key)
    old = {p.name for p in (publisher.folder / "objects/objects").iterdir()}
    publisher.put("guide", "A later text.")
    publisher.ingest_texts("handbook", later="# Later\n\nA later document about refunds.\n")
    publisher.publish()
    new = [p for p in (publisher.folder / "objects/objects").iterdir() if p.name not in old]
    assert new
    for source in new:
        target = edge.location / "objects" / source.name
        shutil.copy(source, target)
        if how == "truncated":
            cut(target)
        elif how == "tampered":
            flip(target)
        else:
            target.unlink()
    shutil.copy(publisher.folder / "objects/manifest", edge.location / "manifest.new")
    (edge.location / "manifest.new").replace(edge.location / "manifest")
    names = [p.name for p in new]
    check_old_snapshot_serves_on(
        edge, mock, publisher.client_key, before, lambda log: any(name in log for name in names)
    )
    deliver(publisher, edge)
    eventually("the repaired object is followed", lambda: told(edge, mock, publisher.client_key)[0] == "A later text.", 8)


def test_a_manifest_of_another_publisher_is_refused(publisher, folder, mock, started):
    edge = follow(publisher, folder, mock, started)
    before = told(edge, mock, publisher.client_key)
    stranger = fill(Store(folder / f"stranger-{uuid.uuid4().hex[:6]}"))
    stranger.put("guide", "A stranger's text.")
    for _ in range(3):
        stranger.key()
        stranger.publish()
    deliver(stranger, edge)
    check_old_snapshot_serves_on(edge, mock, publisher.client_key, before, lambda log: "manifest" in log)


def test_an_older_snapshot_is_refused_also_after_a_restart(publisher, folder, mock, started):
    edge = follow(publisher, folder, mock, started)
    doomed = publisher.key("doomed")
    publisher.publish()
    deliver(publisher, edge)
    edge.wait_key(doomed)
    older = (edge.location / "manifest").read_bytes()
    publisher.run("key", "revoke", "doomed")
    publisher.publish()
    deliver(publisher, edge)
    gone = lambda: edge.send("GET", "/v1/models", key=doomed).status == 401
    eventually("the key is revoked", gone, 8)
    # A mirror that is behind, or a bucket as it was: validly signed, and not to be believed.
    (edge.location / "manifest.new").write_bytes(older)
    (edge.location / "manifest.new").replace(edge.location / "manifest")
    eventually("it is refused", lambda: "a roll-back is published as a new epoch" in edge.log(), 8)
    for _ in range(2):
        assert gone() and edge.chat(publisher.client_key, HI).status == 200
        edge.restart()
        edge.wait_ready(10)
    deliver(publisher, edge)
    publisher.put("guide", "A later text.")
    publisher.publish()
    deliver(publisher, edge)
    eventually("the newest is followed", lambda: told(edge, mock, publisher.client_key)[0] == "A later text.", 8)


def test_a_snapshot_that_cannot_be_prepared_is_tried_again(publisher, folder, mock, started):
    edge = follow(publisher, folder, mock, started)
    certificate = edge.store.scratch / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", edge.store.scratch / "ca.key", "-out", certificate],
        check=True, capture_output=True,
    )
    config = edge.config_file.read_text()
    more = f'[providers.secure]\nkind = "openai"\nbase_url = "https://127.0.0.1:9/v1"\nca_file = "{certificate}"\n'
    edge.config_file.write_text(f"{config}\n{more}")
    eventually("the configuration is in force", lambda: "configuration reloaded" in edge.log(), 8)
    before = told(edge, mock, publisher.client_key)
    kept = certificate.read_bytes()
    certificate.unlink()
    publisher.put("guide", "A later text.")
    publisher.publish()
    deliver(publisher, edge)
    check_old_snapshot_serves_on(
        edge, mock, publisher.client_key, before, lambda log: "the snapshot cannot be prepared yet" in log and "ca.pem" in log
    )
    # Nothing else is published, and the location says nothing new.
    certificate.write_bytes(kept)
    eventually("it is in force", lambda: told(edge, mock, publisher.client_key)[0] == "A later text.", 45)


def test_an_edge_that_trusts_another_key_never_becomes_ready(publisher, folder, mock, started):
    stranger = Store(folder / f"stranger-{uuid.uuid4().hex[:6]}")
    stranger.publish()
    trusted = (stranger.folder / "publisher.pub").read_text().strip()
    edge = follow(publisher, folder, mock, started, trusted=trusted, wait=False)
    eventually("the refusal is logged", lambda: edge.must_run() or "manifest" in edge.log(), 10)
    assert eventually("the admin listener is up", lambda: readiness(edge), 5) == 503
    eventually("the public listener is up", lambda: edge.send("GET", "/healthz").status, 5)
    refused = edge.chat(publisher.client_key, HI)
    assert (refused.status, refused.error["code"]) == (503, "snapshot_unavailable")


def test_an_edge_without_any_snapshot_says_so_and_serves_when_one_comes(publisher, folder, mock, started):
    edge = follow(publisher, folder, mock, started)
    edge.stop()
    shutil.rmtree(edge.location)
    shutil.rmtree(edge.store.folder / "edge", ignore_errors=True)
    edge.start()
    assert eventually("the admin listener is up", lambda: edge.must_run() or readiness(edge), 10) == 503
    refused = eventually("the public listener is up", lambda: edge.chat(publisher.client_key, HI), 5)
    assert (refused.status, refused.error["code"]) == (503, "snapshot_unavailable")
    assert refused.headers["x-should-retry"] == "true"
    assert edge.send("GET", "/healthz").status == 200
    (edge.location / "objects").mkdir(parents=True, exist_ok=True)
    deliver(publisher, edge)
    edge.wait_ready(8)
    assert edge.chat(publisher.client_key, HI).status == 200


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_an_edge_restarts_and_serves_with_the_location_gone(publisher, folder, mock, started, kill):
    edge = follow(publisher, folder, mock, started)
    before = told(edge, mock, publisher.client_key)
    edge.location.rename(edge.location.with_name(edge.location.name + "-gone"))
    edge.restart(kill)
    edge.wait_ready(10)
    assert told(edge, mock, publisher.client_key) == before
    answer = edge.chat(publisher.client_key, user("How long do refunds take?", model="knowing"), {"reply": "echo"})
    assert "five working days" in answer.text


def test_a_snapshot_past_its_age_is_no_longer_served(publisher, folder, mock, started):
    edge = follow(publisher, folder, mock, started, snapshot="max_snapshot_age_seconds = 8\n", wait=False)
    eventually("the snapshot is too old", lambda: edge.must_run() or readiness(edge) == 503, 20)
    eventually("it is refused", lambda: edge.chat(publisher.client_key, HI).status == 503, 20)
    assert edge.chat(publisher.client_key, HI).error["code"] == "snapshot_unavailable"
    publisher.key()
    publisher.publish()
    deliver(publisher, edge)
    eventually("a fresh one is served", lambda: edge.chat(publisher.client_key, HI).status == 200, 7)


@pytest.mark.parametrize("how", ["truncated", "tampered", "missing"])
def test_verify_names_a_damaged_object(publisher, how):
    assert publisher.run("verify").returncode == 0
    objects = sorted((publisher.folder / "objects/objects").iterdir(), key=lambda p: p.stat().st_size)
    victim = objects[-1]
    if how == "truncated":
        cut(victim)
    elif how == "tampered":
        flip(victim)
    else:
        victim.unlink()
    done = publisher.run("verify", code=1)
    assert victim.name in done.stdout + done.stderr


def test_publishing_twice_keeps_the_epoch_and_says_so(publisher):
    done = publisher.run("publish")
    epoch = publisher.publish()
    assert "nothing changed" in done.stdout
    publisher.key()
    assert publisher.publish() == epoch + 1


def test_the_publisher_s_secrets_are_for_its_owner_alone(publisher):
    for name in ("publisher.key", "pepper"):
        assert (publisher.folder / name).stat().st_mode & 0o777 == 0o600
