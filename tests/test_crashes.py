"""kill -9 at random moments of `ingest` and `publish` loses nothing that a second run does not bring."""

import json
import random
import signal
import subprocess
import time

import pytest

from conftest import note
from harness import BINARY, CORPUS, Store, copy_tree

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
    """Starts the command and kills it after that long; gives whether it was still running."""
    child = subprocess.Popen(
        [BINARY, "--data", store.folder, *[str(a) for a in arguments]],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait(5)
    return child.returncode == -signal.SIGKILL


def counts(said):
    return said["documents"], said["chunks"]


def test_an_ingest_killed_at_random_moments_is_finished_by_running_again(whole, folder):
    chance = random.Random(SEED)
    note(f"crash tests: seed {SEED}")
    store = Store(folder / "killed-ingest")
    moments = sorted(chance.uniform(0.02, 0.9) * whole.ingest_seconds for _ in range(5))
    killed = [run_and_kill(store, moment, "ingest", "scifact", CORPUS) for moment in moments]
    assert sum(killed) >= 2, f"seed {SEED}: too few of {moments} were interrupted: {killed}"
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


def test_a_publish_killed_at_random_moments_leaves_a_manifest_that_verifies(whole, folder):
    chance = random.Random(SEED + 1)
    prepared = Store(folder / "before-publish")
    prepared.ingest_texts("first", a="# A\n\nThe first text.\n")
    first = prepared.publish()
    prepared.ingest("scifact", CORPUS)
    killed = 0
    for number in range(4):
        # Each time from the same state: what a killed run had already built would make the next one short.
        store = Store(folder / f"killed-publish-{number}")
        copy_tree(prepared.folder, store.folder)
        moment = chance.uniform(0.1, 0.95) * whole.publish_seconds
        killed += run_and_kill(store, moment, "publish")
        where = f"seed {SEED}, killed after {moment:.3f} s"
        done = store.run("verify", code=None)
        assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
        assert "first text" in store.run("search", "first", "text").stdout, where
        assert store.publish() == first + 1, where
        store.run("verify")
        assert "rank" in store.run("search", "scifact", "vitamin D deficiency").stdout, where
    assert killed >= 2, f"seed {SEED}: only {killed} of 4 runs of publish were interrupted"
    note(f"publish: {killed} of 4 runs were killed before their end")


def test_an_up_that_is_killed_serves_again_at_once(folder, mock, started):
    from conftest import config_for, fill
    from harness import Edge, user

    store = fill(Store(folder / "killed-up"))
    key = store.key()
    edge = started(Edge(store, config_for(mock)))
    edge.wait_key(key)
    for _ in range(3):
        edge.restart(kill=True)
        edge.wait_ready(10)
        answer = edge.chat(key, user("refunds", model="support-bot", sluice={"variables": {"topic": "tents"}}))
        assert (answer.status, answer.text) == (200, "refunds")


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
