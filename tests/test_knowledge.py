"""Collections that change: documents put and removed over CLI and API, filters, incremental segments, old stores."""

import json
import signal
import subprocess
import time

import httpx
import pytest

from conftest import CONFIG, config_for, fill, note
from harness import ALL_ASSERTS, BINARY, Edge, Store, eventually, files_below, user

ROUTES = """
[routes.talking]
provider = "mock"
model = "m"
collections = ["handbook"]
recall_query_turns = 3

[routes.newest]
provider = "mock"
model = "m"
collections = ["news"]
recall_recency_key = "at"
recall_recency_percent = 40
recall_recency_half_life_days = 10
recall_importance_key = "weight"
recall_importance_percent = 30
"""

TOPICS = ["copper", "granite", "willow", "saffron", "falcon", "lantern", "harbour", "velvet", "thunder", "meadow"]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data")


def texts(store, collection, query, *flags, k=10):
    """Ids of what is found, best first."""
    queries = store.scratch / "q.jsonl"
    queries.write_text(json.dumps({"id": "q", "text": query}) + "\n")
    out = store.run("search", collection, "--queries", queries, "-k", str(k), *flags).stdout
    return [line.split("\t")[1] for line in out.splitlines()]


def ingest(store, collection, documents):
    file = store.scratch / "documents.jsonl"
    file.write_text("".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents))
    return store.ingest(collection, file)


def document(number, **payload):
    topic = TOPICS[number % len(TOPICS)]
    text = f"Note {number} tells how {topic} number {number} is kept and cared for over the year."
    return {"id": f"n{number}", "title": topic, "text": text, "payload": payload}


def manifest(store):
    raw = (store.folder / "objects" / "manifest").read_bytes()
    return json.loads(raw[108:])


def test_filters_choose_documents_inside_the_search(store):
    ingest(store, "notes", [
        document(n, language="en" if n % 3 else "zh", rating=n / 10, meta={"page": n}, at=f"2024-{n % 12 + 1:02}-01")
        for n in range(60)
    ])
    must = lambda *conditions: ("--filter", json.dumps({"must": list(conditions)}))
    chinese = texts(store, "notes", "granite care", *must({"key": "language", "match": {"value": "zh"}}), k=30)
    assert len(chinese) == 20 and all(int(id[1:]) % 3 == 0 for id in chinese)
    nested = texts(store, "notes", "granite care", *must({"key": "meta.page", "range": {"gte": 10, "lt": 13}}))
    assert sorted(nested) == ["n10", "n11", "n12"]
    time_range = {"key": "at", "range": {"gte": "2024-03-01T00:00:00Z", "lte": "2024-03-31"}}
    assert all(int(id[1:]) % 12 == 2 for id in texts(store, "notes", "granite care", *must(time_range)))
    both = must({"key": "language", "match": {"any": ["zh"]}}, {"key": "rating", "range": {"gt": 5.5}})
    assert sorted(texts(store, "notes", "anything about meadow", *both)) == ["n57"]
    nothing = must({"key": "language", "match": {"value": "fr"}})
    assert texts(store, "notes", "granite", *nothing) == []
    refused = store.run("search", "notes", "x", "--filter", '{"must":[{"key":"a","range":{"gte":"soon"}}]}', code=2)
    assert "filter.must[0].range.gte" in refused.stderr


def test_what_is_new_becomes_a_small_segment_and_the_rest_stays(store):
    ingest(store, "notes", [document(n) for n in range(400)])
    store.run("publish")
    before = manifest(store)["collections"][0]["segments"]
    assert [segment["passages"] for segment in before] == [400]
    ingest(store, "notes", [document(n) for n in range(400, 405)])
    store.run("publish")
    after = manifest(store)["collections"][0]["segments"]
    assert [segment["passages"] for segment in after] == [400, 5]
    assert after[0] == before[0]
    assert texts(store, "notes", "note 403 lantern", k=1) == ["n403"]
    # A changed document is found as it is now, and only once.
    changed = document(7) | {"text": "Note 7 now speaks of zirconium alone."}
    ingest(store, "notes", [changed])
    assert texts(store, "notes", "zirconium", k=1) == ["n7"]
    assert texts(store, "notes", "note 7 velvet number 7", k=400).count("n7") == 1


def test_many_small_segments_are_joined_and_nothing_is_lost(store):
    for start in range(0, 120, 10):
        ingest(store, "notes", [document(n) for n in range(start, start + 10)])
        store.run("publish")
    segments = manifest(store)["collections"][0]["segments"]
    assert len(segments) < 10
    assert sum(segment["passages"] for segment in segments) == 120
    firsts = [(segment["first"], segment["last"]) for segment in segments]
    assert firsts[0][0] == 1 and all(left[1] + 1 == right[0] for left, right in zip(firsts, firsts[1:]))
    for number in (0, 55, 119):
        assert texts(store, "notes", f"note {number} {TOPICS[number % 10]} number {number}", k=1) == [f"n{number}"]


def test_what_is_forgotten_is_not_found_and_a_repetition_outlives_it(store):
    shared = "The lighthouse keeper counts the quartz pebbles every evening."
    ingest(store, "notes", [
        {"id": "first", "title": "Quartz", "text": shared},
        {"id": "second", "title": "Quartz", "text": shared},
        *[document(n) for n in range(30)],
    ])
    assert texts(store, "notes", "quartz pebbles lighthouse", k=1) == ["first"]
    assert store.run("forget", "notes", "first").stdout == "notes: 1 of 1 documents removed\n"
    assert texts(store, "notes", "quartz pebbles lighthouse", k=1) == ["second"]
    store.run("forget", "notes", "first", code=1)
    store.run("forget", "notes", "second")
    assert "second" not in texts(store, "notes", "quartz pebbles lighthouse", k=50)
    store.run("forget", "notes", "--all")
    store.run("publish")
    assert manifest(store)["collections"] == []


@pytest.fixture(scope="module")
def up(folder, mock):
    """Store, publisher and edge in one process, of this module alone."""
    store = fill(Store(folder / "knowledge"))
    edge = Edge(store, config_for(mock, CONFIG + ROUTES))
    edge.key = store.key("reader", asserts=ALL_ASSERTS)
    edge.wait_key(edge.key)
    yield edge
    edge.stop()


@pytest.fixture
def operator(up):
    token = (up.store.folder / "operator.token").read_text().strip()
    with httpx.Client(
        base_url=f"http://{up.admin}", headers={"authorization": f"Bearer {token}"}, timeout=20
    ) as client:
        yield client


def test_the_api_puts_and_removes_documents(up, operator):
    answer = operator.post("/api/v1/collections/notes/documents", json={"documents": [document(n) for n in range(12)]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["summary"]["new"] == 12
    listed = operator.get("/api/v1/collections").json()["collections"]
    assert {"name": "notes", "documents": 12, "chunks": 12, "private_documents": 0, "unembedded_chunks": 0} in listed
    assert operator.delete("/api/v1/collections/notes/documents/n3").json() == {"removed": 1}
    again = operator.delete("/api/v1/collections/notes/documents/n3")
    assert (again.status_code, again.json()["code"]) == (404, "DOCUMENT_404")
    gone = operator.post("/api/v1/collections/notes/documents/delete", json={"ids": ["n4", "n5", "n99"]})
    assert gone.json() == {"removed": 2}


@pytest.mark.parametrize("body, message", [
    ({"documents": [{"id": "a"}]}, "`documents[0]`: there is no `text`"),
    ({"documents": [{"id": "a", "text": "b", "payload": 3}]}, "`documents[0]`: `payload` must be an object"),
    ({"docs": []}, "`documents`"),
    ({"documents": [{"id": "a", "text": "b"}] * 1001}, "`documents` has 1001 members, at most 1000 are taken"),
])
def test_the_api_names_faults(operator, body, message):
    answer = operator.post("/api/v1/collections/notes/documents", json=body)
    assert answer.status_code == 400
    problem = answer.json()
    assert set(problem) == {"error", "message", "code"}
    assert (problem["error"], problem["code"]) == ("request_invalid", "REQUEST_400")
    assert message in problem["message"]


def test_the_api_needs_the_operators_token(up):
    for headers in ({}, {"authorization": "Bearer " + "0" * 64}):
        answer = httpx.post(f"http://{up.admin}/api/v1/collections/notes/documents", json={"documents": []}, headers=headers)
        assert answer.status_code == 401 and answer.json()["code"] == "TOKEN_401"


def told(edge, question, model="knowing", **steering):
    """What would be sent for a question."""
    body = user(question, model=model, sluice=steering)
    answer = edge.send("POST", "/v1/explain", body, edge.key)
    assert answer.status == 200, answer
    return answer.body.decode()


def test_a_write_is_found_within_a_second(up, operator):
    """From the acknowledgement to the first answer that holds the text, through the whole proxy."""
    waits = []
    for number in range(20):
        word = f"zq{number}xylophone"
        text = f"The {word} is stored in room {number} of the museum."
        answer = operator.post("/api/v1/collections/handbook/documents", json={"documents": [{"id": word, "text": text}]})
        assert answer.status_code == 200, answer.text
        acknowledged = time.monotonic()
        eventually(f"{word} is found", lambda: text in told(up, f"Where is the {word}?"), 20)
        waits.append(time.monotonic() - acknowledged)
    waits.sort()
    note(f"from acknowledgement to hit: median {waits[10] * 1e3:.0f} ms, slowest {waits[-1] * 1e3:.0f} ms")
    # What else runs on the machine may hold up a few.
    assert waits[15] < 1.0, waits


def test_a_request_filters_by_payload_and_hears_of_its_sources(up, operator):
    documents = [
        {"id": f"tide {n}", "text": f"The tide table of pier {n} is kept in a drawer.", "payload": {"pier": n}}
        for n in range(9)
    ]
    operator.post("/api/v1/collections/handbook/documents", json={"documents": documents}).raise_for_status()
    eventually("it is found", lambda: "of pier 8 is kept" in told(up, "Where is the tide table of pier 8?"), 5)
    chosen = {"must": [{"key": "pier", "range": {"gte": 6}}]}
    found = json.loads(told(up, "Where is the tide table?", filter=chosen))["context"]["hits"]
    assert sorted(hit["id"] for hit in found) == ["tide 6", "tide 7", "tide 8"]
    body = user("Where is the tide table?", model="knowing")
    answer = up.send("POST", "/v1/chat/completions", body, up.key, headers={"x-sluice-filter": json.dumps(chosen)})
    assert answer.status == 200, answer
    assert sorted(answer.headers["x-sluice-sources"].split(", ")) == ["tide%206", "tide%207", "tide%208"]
    wrong = up.send("POST", "/v1/chat/completions", body | {"sluice": {"filter": {"must": 1}}}, up.key)
    assert wrong.status == 400 and "filter.must[0]" in wrong.body.decode()


def test_what_belongs_to_a_subject_is_its_own(up, operator):
    """Equal ids and equal texts of two subjects are two documents, and nobody else finds either."""
    subjects = ["ann@example.com", "bob@example.com"]
    shared = "The violin of this household stands in the blue wardrobe."
    documents = [{"id": "note", "subject": subject, "text": shared} for subject in subjects]
    documents += [
        {"id": "own", "subject": subject, "text": f"The cello stands beside the {colour} door.", "payload": {"n": n}}
        for n, (subject, colour) in enumerate(zip(subjects, ["amber", "crimson"]))
    ]
    answer = operator.post("/api/v1/collections/handbook/documents", json={"documents": documents})
    assert answer.json()["summary"]["new"] == 4, answer.text
    [listed] = [c for c in operator.get("/api/v1/collections").json()["collections"] if c["name"] == "handbook"]
    assert listed["private_documents"] == 4
    ask = lambda **steering: told(up, "Where do the violin and the cello stand?", **steering)
    eventually("Ann's is found", lambda: "amber" in ask(subject=subjects[0]), 5)
    for subject, own, other in ((subjects[0], "amber", "crimson"), (subjects[1], "crimson", "amber")):
        found = ask(subject=subject)
        assert own in found and shared in found and other not in found
        hits = json.loads(found)["context"]["hits"]
        assert {hit["id"] for hit in hits if hit["private"]} == {"note", "own"}
    for steering in ({}, {"subject": "nobody"}, {"filter": {"must": [{"key": "n", "range": {"gte": 0}}]}}):
        assert shared not in ask(**steering) and "beside the" not in ask(**steering)
    # A filter holds inside what is one's own, too.
    chosen = json.loads(ask(subject=subjects[0], filter={"must": [{"key": "n", "match": {"value": 0}}]}))
    assert [hit["id"] for hit in chosen["context"]["hits"]] == ["own"]
    # The answer is cached for each subject apart.
    cached = lambda: json.loads(ask(subject=subjects[0]))["context"]["cache"] == "hit"
    eventually("it is cached", cached)
    refused = {"documents": [{"id": "a", "text": "b", "payload": {"$subject": "c"}}]}
    assert operator.post("/api/v1/collections/handbook/documents", json=refused).status_code == 400
    # Names of subjects stand in no index.
    files = [file for folder in ("objects", "edge") for file in files_below(up.store.folder / folder)]
    assert files and not [path for path, content in files if b"ann@example.com" in content]
    one = operator.delete("/api/v1/collections/handbook/documents/own", params={"subject": subjects[1]})
    assert one.json() == {"removed": 1}
    eventually("it is gone", lambda: "crimson" not in ask(subject=subjects[1]), 5)
    assert operator.delete("/api/v1/subjects/ann%40example.com").json() == {"removed": 2}
    assert operator.delete("/api/v1/subjects/ann%40example.com").json() == {"removed": 0}
    eventually("Ann is forgotten", lambda: shared not in ask(subject=subjects[0]), 5)
    assert shared in ask(subject=subjects[1])


def test_the_command_line_keeps_subjects_apart_and_rewrites_what_they_forget(store):
    file = store.scratch / "own.jsonl"
    file.write_text("".join(json.dumps(document(n)) + "\n" for n in range(20)))
    store.run("ingest", "notes", file, "--subject", "u1")
    ingest(store, "notes", [document(n) for n in range(20, 30)])
    assert texts(store, "notes", "note 3 saffron", "--subject", "u1", k=1) == ["n3"]
    assert "n3" not in texts(store, "notes", "note 3 saffron", k=30)
    assert "n3" not in texts(store, "notes", "note 3 saffron", "--subject", "u2", k=30)
    assert store.run("forget", "notes", "n3", "--subject", "u1").stdout == "notes: 1 of 1 documents removed\n"
    assert "n3" not in texts(store, "notes", "note 3 saffron", "--subject", "u1", k=30)
    assert store.run("forget", "--subject", "u1").stdout == "19 documents removed\n"
    store.run("publish")
    assert [collection["name"] for collection in manifest(store)["collections"]] == ["notes"]
    assert len(texts(store, "notes", "note", "--subject", "u1", k=30)) == 10


def test_a_question_may_be_the_last_turns(up):
    """The last turn alone says nothing of what it is about."""
    turns = ["How do I care for a tent?", "And what of tears in it?", "Is that so?"]
    messages = [m for turn in turns for m in ({"role": "user", "content": turn}, {"role": "assistant", "content": "Hm."})]
    found = {}
    for model in ("knowing", "talking"):
        body = {"model": model, "messages": messages[:-1]}
        answer = up.send("POST", "/v1/explain", body, up.key)
        assert answer.status == 200, answer
        found[model] = [hit["lexical_rank"] for hit in answer.json()["context"]["hits"] if "tents" in hit["id"]]
    assert found["knowing"] in ([], [None]) and found["talking"] == [1]


def test_newer_and_more_important_documents_come_first_where_the_route_says_so(up, operator):
    day = lambda back: time.strftime("%Y-%m-%d", time.gmtime(time.time() - back * 86_400))
    text = "The harbour master reports on the state of the pier."
    documents = [
        {"id": "old", "text": text + " One.", "payload": {"at": day(300)}},
        {"id": "new", "text": text + " Two.", "payload": {"at": day(1)}},
        {"id": "vital", "text": text + " Three.", "payload": {"at": day(300), "weight": 1}},
    ]
    operator.post("/api/v1/collections/news/documents", json={"documents": documents}).raise_for_status()
    ask = lambda: json.loads(told(up, "What does the harbour master report?", model="newest"))["context"]["hits"]
    eventually("they are found", lambda: len(ask()) == 3, 5)
    order = [hit["id"] for hit in ask()]
    assert order.index("old") == 2 and set(order) == {"new", "vital", "old"}


def test_a_watched_folder_is_followed(store):
    folder = store.scratch / "watched"
    folder.mkdir()
    (folder / "a.md").write_text("# Violin\n\nThe violin needs rosin.\n")
    (folder / "b.md").write_text("# Oboe\n\nThe oboe needs a reed.\n")
    command = [BINARY, "--data", str(store.folder), "ingest", "music", str(folder), "--watch"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "2 documents" in watching.stdout.readline() and "watching" in watching.stdout.readline()
        (folder / "a.md").write_text("# Viola\n\nThe viola needs a luthier.\n")
        (folder / "deeper").mkdir()
        (folder / "deeper" / "c.md").write_text("# Harp\n\nThe harp needs forty-seven strings.\n")
        (folder / "b.md").unlink()
        sure = lambda query, id: texts(store, "music", query, k=5)[:1] == [id]
        eventually("the new file is found", lambda: sure("harp strings", "deeper/c.md"), 10, 0.5)
        eventually("the changed one too", lambda: sure("luthier", "a.md"), 10, 0.5)
        eventually("the other is gone", lambda: "b.md" not in texts(store, "music", "oboe reed", k=5), 10, 0.5)
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
