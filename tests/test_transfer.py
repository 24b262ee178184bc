"""Export, import and migration, on both databases: byte for byte, as often as one likes, all or nothing."""

import json
import random
import string

import pytest

from test_store import listed, put, refused, store  # noqa: F401 (a fixture)
from harness import Store


def export(store, *more):
    return json.loads(store.run("export", *more).stdout)


def bring(store, *arguments, code=0):
    return json.loads(store.run("import", *arguments, "--json", code=code).stdout or "{}")


@pytest.fixture
def other(store, tmp_path, request):
    """A second store, on the same kind of database."""
    url = request.getfixturevalue("postgres").database() if store.environment else None
    return Store(tmp_path / "other", url)


def filled(store):
    put(store, "partial", "tone", "Be {{ manner }}.")
    put(store, "partial", "tone", "Be very {{ manner }}.\n\n\ttabs, \\slashes, 中文 and 🦦")
    store.run("artifact", "partial", "deploy", "tone")
    put(store, "prompt", "greet", "{% include 'tone' %} Hello", 0, "a.jinja", "--note", "first")
    put(store, "prompt", "greet", "+++\n[variables.manner]\ndefault = 'kind'\n[parameters]\ntemperature = 0.1\n+++\n{% include 'tone' %}")
    store.run("prompt", "deploy", "greet", "--version", 1)
    store.run("prompt", "deprecate", "greet", 2)
    put(store, "tool", "search", json.dumps({"description": "Search", "n": 1.50, "deep": {"b": [1, None], "a": True}}))
    return store


def test_a_bundle_holds_everything_and_comes_back_byte_for_byte(store, other):
    bundle = export(filled(store))
    assert [(a["kind"], a["alias"], len(a["versions"])) for a in bundle["artifacts"]] == [
        ("prompt", "greet", 2), ("tool", "search", 1), ("partial", "tone", 2),
    ]
    file = store.scratch / "bundle.json"
    store.run("export", file)
    first = bring(other, file)
    assert sorted(first["created"]) == ["greet", "search", "tone"]
    again = export(other)
    bodies = lambda b: {(a["kind"], a["alias"]): [(v["body"], v["hash"], v["note"]) for v in a["versions"]] for a in b["artifacts"]}
    assert bodies(again) == bodies(bundle)
    # A second time nothing happens.
    second = bring(other, file)
    assert sorted(second["unchanged"]) == ["greet", "search", "tone"] and not second["created"]
    assert export(other) == again
    # A damaged body is refused, and nothing of the bundle comes in.
    damaged = json.loads(file.read_text())
    damaged["artifacts"][0]["versions"][0]["body"] += " "
    file.write_text(json.dumps(damaged))
    refused(store.run("import", file, code=2), "damaged", "greet")


def test_what_is_disabled_comes_in_disabled_and_another_is_the_default(store, other):
    put(store, "prompt", "b", "in use")
    put(store, "prompt", "a", "for later")
    store.run("prompt", "disable", "a")
    file = store.scratch / "bundle.json"
    store.run("export", file)
    assert sorted(bring(other, file)["created"]) == ["a", "b"]
    states = {alias: (found["enabled"], found["is_default"]) for alias, found in listed(other).items()}
    assert states == {"a": (False, False), "b": (True, True)}
    # With nothing to be the default there is none, until one can be.
    other.run("tenant", "create", "empty")
    lone = {**export(store), "artifacts": [one for one in export(store)["artifacts"] if one["alias"] == "a"]}
    file.write_text(json.dumps(lone))
    other.run("import", file, "--tenant", "empty")
    found = lambda: json.loads(other.run("prompt", "list", "--json", "--tenant", "empty").stdout)[0]
    assert (found()["enabled"], found()["is_default"]) == (False, False)
    other.run("prompt", "enable", "a", "--tenant", "empty")
    assert (found()["enabled"], found()["is_default"]) == (True, True)


def test_what_is_archived_drafted_and_compared_comes_along_with_who_wrote_it(store, other):
    put(store, "prompt", "first", "The default.")
    put(store, "tool", "old-tool", json.dumps({"description": "Gone by"}))
    put(store, "agent", "old", json.dumps({"links": [{"kind": "tool", "alias": "old-tool"}]}))
    for text in ["Long.", "Short.", "Shorter."]:
        put(store, "prompt", "tried", text)
    store.run("prompt", "deploy", "tried")
    store.run("experiment", "create", "length", "--prompt", "tried", "--arm", "long=1:0.25", "--arm", "short=2:0.25", "--coverage", "0.5", "--metric", "helpful")
    store.run("experiment", "start", "length")
    file = store.scratch / "draft.jinja"
    file.write_text("Not yet.")
    store.run("prompt", "draft", "tried", file)
    store.run("artifact", "agent", "archive", "old")
    store.run("artifact", "tool", "archive", "old-tool")
    bundle = export(store)
    assert {a["alias"] for a in bundle["artifacts"] if a["archived"]} == {"old", "old-tool"}
    file = store.scratch / "bundle.json"
    # As somebody else wrote it, long ago.
    for one in bundle["artifacts"]:
        for version in one["versions"]:
            version.update(author="ada", created_at=version["created_at"] - 10**12)
    file.write_text(json.dumps(bundle))
    report = bring(other, file)
    assert report["experiments"] == ["length"] and not report["warnings"]
    again = export(other)
    assert again["artifacts"] == [{**one, "deployments": []} for one in bundle["artifacts"]]
    # Whether it runs is decided where it came to; its units are where they were.
    assert again["experiments"] == [{**one, "state": "draft"} for one in bundle["experiments"]]
    other.run("prompt", "deploy", "tried")
    other.run("experiment", "start", "length")
    # A second time nothing happens; another experiment of the name stays as it is, or stops the import.
    second = bring(other, file)
    assert not second["created"] and not second["experiments"] and not second["warnings"]
    bundle["experiments"][0]["seed"] = "another"
    file.write_text(json.dumps(bundle))
    refused(other.run("import", file, code=2), "experiment `length` exists already")
    assert "`length` exists" in bring(other, file, "--on-conflict", "skip")["warnings"][0]
    # The prompt may come in by another name, which the experiment follows.
    put(other, "prompt", "else", "x")
    other.run("tenant", "create", "third")
    put(other, "prompt", "tried", "Theirs.", 0, "x.jinja", "--tenant", "third")
    report = bring(other, file, "--on-conflict", "rename", "--tenant", "third")
    assert {"from": "tried", "to": "tried-2"} in report["renamed"] and report["experiments"] == ["length"]
    assert json.loads(other.run("export", "--tenant", "third").stdout)["experiments"][0]["prompt"] == "tried-2"
    # What an earlier version of this program wrote has neither.
    for one in bundle["artifacts"]:
        del one["archived"]
        one.pop("draft", None)
    del bundle["experiments"]
    file.write_text(json.dumps({**bundle, "format": "sluice-bundle/1"}))
    other.run("tenant", "create", "fourth")
    assert len(bring(other, file, "--tenant", "fourth")["created"]) == len(bundle["artifacts"])


@pytest.mark.timeout(300)
def test_whatever_an_export_holds_comes_in_and_a_second_time_changes_nothing(store, other):
    # Names sort against what they name.
    put(store, "tool", "end", json.dumps({"description": "The last"}))
    for n in reversed(range(30)):
        link = {"kind": "agent", "alias": f"a{n + 1:02}"} if n < 29 else {"kind": "tool", "alias": "end"}
        put(store, "agent", f"a{n:02}", json.dumps({"links": [link]}))
    # An archived agent, and an old version of one that is used, name what is gone.
    put(store, "tool", "gone", json.dumps({"description": "Gone"}))
    naming = json.dumps({"links": [{"kind": "tool", "alias": "gone"}]})
    put(store, "agent", "past", naming)
    put(store, "agent", "turned", naming)
    put(store, "agent", "turned", json.dumps({"links": []}))
    store.run("artifact", "agent", "archive", "past")
    store.run("artifact", "tool", "delete", "gone")
    # Prompts in force, put away, and compared; the one that is compared went back to its first text.
    for text in ["A", "B", "A"]:
        put(store, "prompt", "tried", text)
    store.run("prompt", "deploy", "tried")
    store.run("experiment", "create", "which", "--prompt", "tried", "--arm", "a=1:0.5", "--arm", "b=2:0.5")
    put(store, "prompt", "away", "x")
    store.run("prompt", "archive", "away")
    draft = store.scratch / "draft.jinja"
    draft.write_text("Not yet.")
    store.run("prompt", "draft", "tried", draft)
    file = store.scratch / "bundle.json"
    store.run("export", file)
    unchanged = lambda report: not any(report[kind] for kind in ["created", "updated", "renamed", "experiments", "warnings", "failed"])
    assert unchanged(bring(store, file)), "into the store that it comes from"
    first = bring(other, file, "--deploy", "production")
    assert len(first["created"]) == 35 and first["experiments"] == ["which"], first
    assert listed(other)["tried"]["deployments"] and not listed(other)["away"]["deployments"]
    # What became of it meanwhile stays: the draft is a version, the experiment has another weight and one more arm.
    other.run("prompt", "publish", "tried")
    other.run("experiment", "change", "which", "--arm", "a=1:0.25")
    assert unchanged(bring(other, file))
    # Beside what has its names already.
    other.run("tenant", "create", "third")
    put(other, "prompt", "tried", "Theirs.", 0, "x.jinja", "--tenant", "third")
    skipped = bring(other, file, "--on-conflict", "skip", "--tenant", "third")
    assert skipped["skipped"] == ["tried"] and "`which` is left out" in skipped["warnings"][0]
    renamed = bring(other, file, "--on-conflict", "rename", "--tenant", "third")
    assert renamed["renamed"] == [{"from": "tried", "to": "tried-2"}] and renamed["experiments"] == ["which"]
    assert unchanged(bring(other, file, "--on-conflict", "rename", "--tenant", "third"))
    # What is used here is not put away, and does not come to name what is missing.
    other.run("tenant", "create", "fourth")
    put(other, "agent", "past", json.dumps({"links": []}), 0, "x.json", "--tenant", "fourth")
    refused(other.run("import", file, "--on-conflict", "new-version", "--tenant", "fourth", code=2), "past", "`gone`")


def test_a_renamed_part_is_told_of_and_the_newest_stays_the_newest(store, other):
    for one, tone in [(store, "kind"), (other, "rude")]:
        put(one, "partial", "tone", f"Be {tone}.")
        one.run("artifact", "partial", "deploy", "tone")
    put(store, "prompt", "asks", "{% include 'tone' %}")
    for text in ["A", "B", "A"]:
        put(store, "prompt", "back", text)
    put(other, "prompt", "back", "A")
    file = store.scratch / "bundle.json"
    store.run("export", file)
    report = bring(other, file, "--on-conflict", "rename")
    assert {(r["from"], r["to"]) for r in report["renamed"]} == {("tone", "tone-2"), ("back", "back-2")}
    assert [w for w in report["warnings"] if "`asks` names the partial `tone`" in w and "`tone-2`" in w], report
    bring(other, file, "--on-conflict", "new-version")
    shown = lambda: json.loads(other.run("prompt", "show", "back", "--json").stdout)
    assert (shown()["number"], shown()["content"]["messages"][0]["content"]) == (3, "A")
    bring(other, file, "--on-conflict", "new-version")
    assert shown()["number"] == 3


@pytest.mark.parametrize("policy,wanted", [("fail", None), ("skip", 1), ("new-version", 2), ("rename", 1)])
def test_conflicts_are_handled_as_asked(store, other, policy, wanted):
    put(store, "prompt", "a", "theirs")
    put(store, "prompt", "b", "only there")
    put(other, "prompt", "a", "ours")
    file = store.scratch / "bundle.json"
    store.run("export", file)
    if policy == "fail":
        refused(other.run("import", file, "--on-conflict", "fail", code=2), "`a` exists already")
        assert set(listed(other)) == {"a"}, "half a bundle came in"
        return
    report = bring(other, file, "--on-conflict", policy)
    now = listed(other)
    assert now["a"]["versions"] == wanted and "b" in now
    if policy == "rename":
        assert report["renamed"] == [{"from": "a", "to": "a-2"}] and "a-2" in now
    before = export(other)
    bring(other, file, "--on-conflict", policy)
    assert export(other) == before, "the second import changed something"


def test_any_text_survives_the_round_trip(store, other):
    choose = random.Random(7)
    alphabet = string.printable.replace("{", "").replace("}", "") + "äß中文🦦\u200b\u2028\"\\\r\n\t"
    for n in range(15):
        text = "".join(choose.choice(alphabet) for _ in range(choose.randint(1, 300))).strip() or "x"
        put(store, "prompt", f"p{n}", text.lstrip("+"))
    file = store.scratch / "bundle.json"
    store.run("export", file)
    bring(other, file)
    bodies = lambda s: {a["alias"]: a["versions"][0]["body"] for a in export(s)["artifacts"]}
    assert bodies(store) == bodies(other)


FILES = {
    "greet.jinja": "Hello {{ name }}",
    "deep/judge.prompty": "---\nname: judge\ninputs:\n  question:\n    type: string\n---\nsystem:\nJudge.\nuser:\n{{question}}\n",
    "menu.prompt": "---\nmodel: googleai/gemini-2.5-flash\ninput:\n  schema:\n    dish: string\n---\n{{role \"system\"}}Cook {{dish}}.",
    "plain.mustache": "Dear {{who}}{{^quiet}}!{{/quiet}}",
    "langfuse.json": json.dumps({"data": [{"name": "critic", "prompt": "Rate {{film}}. @@@langfusePrompt:name=style|label=production@@@", "config": {"temperature": 0.5}}, {"name": "style", "prompt": "Short."}]}),
    "rows.json": json.dumps([{"name": "old", "content": {"type": "context_engineering", "static_content": "Static", "dynamic_context": {"tools": {}}}}]),
}


def write_files(store, files):
    folder = store.scratch / "prompts"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_files_of_other_systems_are_migrated_once(store):
    folder = write_files(store, FILES)
    report = bring(store, folder, "--deploy", "production")
    assert sorted(report["created"]) == ["critic", "greet", "judge", "menu", "old", "plain", "style"]
    prompts = listed(store)
    assert set(prompts) == {"critic", "greet", "judge", "menu", "old", "plain"}
    assert set(listed(store, "partial")) == {"style"}
    assert all(p["deployments"] for p in prompts.values())
    critic = json.loads(store.run("prompt", "show", "critic", "--json").stdout)["content"]
    assert critic["messages"][0]["content"] == "Rate {{ film }}. {% include 'style' %}"
    assert critic["parameters"] == {"temperature": 0.5}
    assert "langfusePrompt" in critic["metadata"]["original"]["text"]
    before = export(store)
    again = bring(store, folder, "--deploy", "production")
    assert len(again["unchanged"]) == 7 and not again["created"] and not again["updated"]
    assert export(store) == before
    # The files are not read again: gone, the prompts are what they were.
    for path in folder.rglob("*"):
        path.is_file() and path.unlink()
    assert export(store) == before


def test_a_migration_that_fails_leaves_nothing_and_says_so(store):
    folder = write_files(store, {**FILES, "broken.mustache": "{{#open}} never closed", "wrong.bin": "?"})
    refused(store.run("import", folder, code=2), "broken.mustache", "not closed")
    assert listed(store) == {} and listed(store, "partial") == {}
    report = bring(store, folder, "--keep-going", code=1)
    assert {f["name"] for f in report["failed"]} == {"broken.mustache", "wrong.bin"}
    assert len(report["created"]) == 7
