"""kill -9 at random moments of `ingest` and `publish` loses nothing that a second run does not bring."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import httpx
import pytest

from conftest import CONFIG, config_for, fill, note
from harness import ALL_ASSERTS, BINARY, CORPUS, Edge, Store, copy_tree, eventually, user
from test_fleet import follower, load, stored

SEED = int(time.time())


@pytest.fixture(scope="session")
def whole(folder):
    """SciFact ingested and published without interruption, and how long each took."""
    assert CORPUS.exists(), f"{CORPUS} is needed"
    store = Store(folder / "whole")
    start = time.monotonic()
    store.counts = store.ingest("scifact", CORPUS)
    store.ingest_seconds = time.monotonic() - start
    start = time.monotonic()
    store.run("publish")
    store.publish_seconds = time.monotonic() - start
    note(f"scifact: ingest {store.ingest_seconds:.1f} s, publish {store.publish_seconds:.1f} s, {store.counts}")
    return store


def run_and_kill(store, seconds, *arguments):
    """Starts the command and kills it after that long. Gives None, or after how many seconds it had ended by itself."""
    start = time.monotonic()
    child = subprocess.Popen(
        [BINARY, "--data", store.folder, *[str(a) for a in arguments]],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait(5)
    return None if child.returncode == -signal.SIGKILL else time.monotonic() - start


def counts(said):
    return said["documents"], said["chunks"]


@pytest.mark.timeout(300)
def test_an_ingest_killed_at_random_moments_is_finished_by_running_again(whole, folder):
    chance = random.Random(SEED)
    note(f"crash tests: seed {SEED}")
    store = Store(folder / "killed-ingest")
    # A run that had ended sooner than the moment at which to kill it had nothing left to go wrong: anew, with moments that are
    # sooner.
    seconds, moments = whole.ingest_seconds, []
    for number in range(40):
        moment = chance.uniform(0.02, 0.9) * seconds
        ended = run_and_kill(store, moment, "ingest", "scifact", CORPUS)
        if ended is None:
            moments.append(moment)
        else:
            seconds, moments, store = min(seconds, ended), [], Store(folder / f"killed-ingest-{number}")
        if len(moments) == 5:
            break
    assert len(moments) == 5, f"seed {SEED}: only {moments} of 40 runs were interrupted"
    finished = store.ingest("scifact", CORPUS)
    assert counts(finished) == counts(whole.counts), f"seed {SEED}"
    assert store.ingest("scifact", CORPUS) == {**finished, "new": 0, "unchanged": finished["documents"]}
    store.run("publish")
    store.run("verify")
    # The same corpus answers alike, whatever happened on the way.
    for query in ("0-dimensional biomaterials show inductive properties.", "vitamin D deficiency"):
        ranks = [
            [line.split()[-1] for line in s.run("search", "scifact", query, "-k", 1).stdout.splitlines()[1:2]]
            for s in (store, whole)
        ]
        assert ranks[0] == ranks[1] != []


@pytest.mark.timeout(300)
def test_a_publish_killed_at_random_moments_leaves_a_manifest_that_verifies(whole, folder):
    chance = random.Random(SEED + 1)
    prepared = Store(folder / "before-publish")
    prepared.ingest_texts("first", a="# A\n\nThe first text.\n")
    first = prepared.publish()
    prepared.ingest("scifact", CORPUS)
    seconds, killed = whole.publish_seconds, 0
    for number in range(20):
        # Each time from the same state: what a killed run had already built would make the next one short.
        store = Store(folder / f"killed-publish-{number}")
        copy_tree(prepared.folder, store.folder)
        moment = chance.uniform(0.1, 0.95) * seconds
        ended = run_and_kill(store, moment, "publish")
        if ended is not None:
            seconds = min(seconds, ended)
            continue
        killed += 1
        where = f"seed {SEED}, killed after {moment:.3f} s"
        done = store.run("verify", code=None)
        assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
        assert "first text" in store.run("search", "first", "text").stdout, where
        assert store.publish() == first + 1, where
        store.run("verify")
        assert "rank" in store.run("search", "scifact", "vitamin D deficiency").stdout, where
        if killed == 3:
            break
    assert killed == 3, f"seed {SEED}: only {killed} of 20 runs of publish were interrupted"


def test_an_up_that_is_killed_serves_again_at_once(folder, mock, started):
    store = fill(Store(folder / "killed-up"))
    key = store.key()
    edge = started(Edge(store, config_for(mock)))
    edge.wait_key(key)
    for _ in range(3):
        edge.restart(kill=True)
        edge.wait_ready(10)
        answer = edge.chat(key, user("refunds", model="support-bot", sluice={"variables": {"topic": "tents"}}))
        assert (answer.status, answer.text) == (200, "refunds")


@pytest.mark.timeout(300)
def test_no_document_is_lost_when_store_and_edge_are_killed(folder, mock, started):
    """Documents written and removed by the API while the store's process and an edge are killed again and again: what was
    acknowledged is in force at both in the end."""
    random.seed(SEED)
    store = fill(Store(folder / "killed-writes"))
    key = store.key(asserts=ALL_ASSERTS)
    config = config_for(mock, CONFIG + '\n[routes.asked]\nprovider = "mock"\nmodel = "m"\ncollections = ["rooms"]\nscrub = []\n')
    up = started(Edge(store, config))
    up.wait_key(key)
    edge = started(follower(store, 1, config, f"file://{store.folder}/objects"))
    edge.wait_key(key)
    headers = {"authorization": f"Bearer {(store.folder / 'operator.token').read_text().strip()}"}
    there, gone, unclear, over = {}, set(), set(), threading.Event()

    def call(path, body):
        try:
            return httpx.post(f"http://{up.admin}/api/v1/collections/rooms/{path}", json=body, headers=headers, timeout=10).is_success
        except httpx.HTTPError:
            return False

    def write(writer):
        number = 0
        while not over.is_set():
            number += 1
            word = f"zq{writer}x{number}y"
            text = f"The {word} is kept in room {number} of house {writer}."
            while not call("documents", {"documents": [{"id": word, "text": text}]}) and not over.is_set():
                time.sleep(0.02)
            if over.is_set():
                unclear.add(word)
                return
            there[word] = text
            if number % 5 == 0:
                unclear.add(word)
                if call("documents/delete", {"ids": [word]}):
                    unclear.discard(word)
                    gone.add(word)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    for thread in writers:
        thread.start()
    for turn in range(8):
        time.sleep(random.uniform(0.3, 1.0))
        (up, edge)[turn % 2].restart(kill=True)
        (up, edge)[turn % 2].wait_ready()
    time.sleep(0.5)
    over.set()
    for thread in writers:
        thread.join()

    def found(where, word):
        body = user(f"Where is the {word}?", model="asked")
        return [hit["id"] for hit in where.send("POST", "/v1/explain", body, key).json()["context"]["hits"]]

    kept = [word for word in there if word not in gone and word not in unclear]
    assert len(kept) > 20 and len(gone) > 2, f"seed {SEED}: {len(kept)} {len(gone)}"
    # Written after every other write and removal was answered, so that an epoch that has it has all of them.
    assert call("documents", {"documents": [{"id": "zqlast", "text": "The zqlast is kept in no house."}]}), f"seed {SEED}"
    for where in (up, edge):
        eventually("the last write is in force", lambda: "zqlast" in found(where, "zqlast"), 20)
        lost = [word for word in kept if word not in found(where, word)]
        back = [word for word in gone if word in found(where, word)]
        assert (lost, back) == ([], []), f"seed {SEED}"
    note(f"{len(kept)} documents and {len(gone)} removals were acknowledged over 8 kills of store and edge, none was lost")


@pytest.mark.timeout(300)
def test_a_full_disk_drops_the_oldest_records_and_no_request(folder, mock, started):
    """Records wait on a disk of 4 MiB, as nothing can be shipped; then it can."""
    store = fill(Store(folder / "full"))
    key = store.key(rpm=1_000_000_000)
    small = store.folder / "edge" / "journal"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "sluice-test", small], check=True)
    try:
        edge = started(Edge(store, config_for(mock)))
        edge.wait_key(key)
        # What is asked before is stored before; then a file stands where the folder of shipped records has to be.
        known = edge.chat(key, user("known", model="plain")).headers["x-sluice-request-id"]
        ids = lambda: [run["id"] for run in edge.api("GET", "runs?limit=1000").json()["runs"]]
        eventually("what was asked before is stored", lambda: known in ids())
        shutil.rmtree(store.folder / "objects" / "journal", ignore_errors=True)
        eventually("shipping is blocked", lambda: blocked(store.folder / "objects" / "journal"))
        before = stored(edge)
        first = edge.chat(key, user("first", model="plain")).headers["x-sluice-request-id"]
        report = folder / "full.json"
        assert load(edge, key, 20_000, report).wait() == 0
        assert json.loads(report.read_text())["targets"][0]["good"] == 20_000, "no request is lost"
        last = edge.chat(key, user("last", model="plain")).headers["x-sluice-request-id"]
        eventually("records are dropped", lambda: edge.metric("sluice_journal_dropped_total"))
        (store.folder / "objects" / "journal").unlink()
        dropped = lambda: int(edge.metric("sluice_journal_dropped_total"))
        count = lambda: stored(edge) - before + dropped()
        eventually("every record is stored, or counted as dropped", lambda: count() >= 20_002, 90, 0.5)
        time.sleep(2)
        assert count() == 20_002
        kept = {run["id"] for run in edge.api("GET", "runs?limit=1000").json()["runs"]}
        assert last in kept and stored(edge) > 1_000
        with sqlite3.connect(f"file:{store.folder / 'store.db'}?mode=ro", uri=True) as database:
            assert not database.execute("SELECT 1 FROM run WHERE id = ?", (bytes.fromhex(first),)).fetchall()
        note(f"a journal on 4 MiB: {dropped()} of 20002 records dropped, all requests answered")
        edge.stop()
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def blocked(place):
    try:
        place.write_bytes(b"")
        return True
    except IsADirectoryError:
        shutil.rmtree(place, ignore_errors=True)
        return False


def test_the_search_quality_on_scifact_is_as_it_was_measured(whole, folder):
    """nDCG@10 over the 300 test queries; BM25 alone gives 0.684."""
    import math

    from harness import SAMPLES

    run = folder / "run.tsv"
    whole.run("search", "scifact", "--queries", SAMPLES / "scifact/queries.jsonl", "-k", 10, "--run", run)
    rows = [line.split("\t") for line in run.read_text().splitlines()]
    assert all(len(row) == 4 for row in rows)
    ranked = {}
    for query, document, rank, score in rows:
        ranked.setdefault(query, []).append((int(rank), document))
        float(score)
    wanted = {}
    for line in (SAMPLES / "scifact/qrels.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        wanted.setdefault(query, {})[document] = int(grade)
    queries = [json.loads(line)["id"] for line in (SAMPLES / "scifact/queries.jsonl").read_text().splitlines()]
    assert len(queries) == 300 and set(queries) == set(wanted)

    def ndcg(query):
        grades = wanted[query]
        places = sorted(ranked.get(query, []))
        assert [rank for rank, _ in places] == list(range(1, len(places) + 1)), query
        assert len({document for _, document in places}) == len(places), query
        gained = sum(grades.get(d, 0) / math.log2(1 + rank) for rank, d in places[:10])
        best = sum(g / math.log2(1 + i) for i, g in enumerate(sorted(grades.values(), reverse=True)[:10], 1))
        return gained / best

    quality = sum(map(ndcg, queries)) / len(queries)
    recall = sum(len({d for _, d in ranked.get(q, [])} & set(wanted[q])) / len(wanted[q]) for q in queries) / 300
    note(f"scifact: nDCG@10 {quality:.4f}, recall@10 {recall:.4f}")
    assert quality >= 0.68
