"""Ten properties of a prompt store, over random histories of operations, on both databases, against a small model."""

import copy
import json
import os
import random
import re
import string
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import pytest

from conftest import CONFIG, config_for
from harness import ALL_ASSERTS, Edge, Store, eventually, user

EDGE = CONFIG + """
[routes.standard]
provider = "mock"
retries = 0
model = "m"
prompt = "default"
scrub = []
"""
# `SLUICE_SEED` repeats what failed once.
FRESH = int(os.environ.get("SLUICE_SEED") or random.SystemRandom().randrange(1_000, 1_000_000))
SEEDS = [3, "fresh"]

PROMPTS, PARTIALS, FLOWS, EXPERIMENTS = ["p0", "p1", "p2", "p3"], ["t0", "t1", "t2"], ["f0", "f1"], ["x0", "x1"]
NAMES = {"prompt": PROMPTS, "partial": PARTIALS, "flow": FLOWS}
ENVIRONMENTS = ["production", "staging"]
INCLUDE = re.compile(r"\{% include '([^'@]+)(?:@([^']*))?' %\}")
# What breaks something may be told as not valid, as in use, or as missing.
ANY_REFUSAL = {400, 404, 409}


class Broken(Exception):
    """Something in force that cannot be rendered, or a reference to what is not there."""


@dataclass
class Artifact:
    versions: list = field(default_factory=list)  # contents, oldest first
    deprecated: set = field(default_factory=set)
    draft: dict | None = None
    history: dict = field(default_factory=lambda: {e: [] for e in ENVIRONMENTS})  # version or None, oldest first
    enabled: bool = True
    archived: bool = False

    @property
    def usable(self):
        return self.enabled and not self.archived

    def now(self, environment):
        return (self.history[environment] or [None])[-1]

    def newest(self):
        """The number that is deployed where none is named."""
        return max((n for n in range(1, len(self.versions) + 1) if n not in self.deprecated), default=None)


def system(text, **more):
    return {"messages": [{"role": "system", "content": text}], **more}


def text_of(content):
    return content["messages"][0]["content"]


@dataclass
class Model:
    """What the store should hold, and by which rules."""

    artifacts: dict = field(default_factory=dict)  # by kind and alias
    default: str | None = None
    experiments: dict = field(default_factory=dict)  # name: prompt, environment, version, state

    def of(self, kind):
        return {alias: a for (k, alias), a in self.artifacts.items() if k == kind}

    def make(self, kind, alias):
        if (kind, alias) not in self.artifacts:
            self.artifacts[kind, alias] = Artifact()
            if kind == "prompt" and self.default is None:
                self.default = alias
        return self.artifacts[kind, alias]

    def put(self, kind, alias, content):
        made = self.make(kind, alias)
        if made.versions[-1:] != [content]:
            made.versions.append(content)

    def delete(self, kind, alias):
        del self.artifacts[kind, alias]
        if kind == "prompt":
            self.experiments = {n: x for n, x in self.experiments.items() if x["prompt"] != alias}
            self.default = None if self.default == alias else self.default

    def in_force(self, kinds=("prompt",)):
        for (kind, alias), artifact in self.artifacts.items():
            for environment in ENVIRONMENTS if kind in kinds else ():
                if number := artifact.now(environment):
                    yield kind, alias, environment, number

    def running(self, **of):
        found = [x for x in self.experiments.values() if x["state"] == "running"]
        return [x for x in found if of.items() <= x.items()]

    def includes(self, environment, content, path=(), found=None):
        """The text of everything that is included, by the name that templates use."""
        found = {} if found is None else found
        for alias, selector in sorted(set(INCLUDE.findall(text_of(content))), key=lambda n: "@".join(filter(None, n))):
            if alias in path:
                raise Broken(f"circle through {alias}")
            if (alias, selector) in found:
                continue
            partial = self.artifacts.get(("partial", alias))
            if not partial or not partial.usable:
                raise Broken(f"partial {alias} is missing or not enabled")
            if selector:
                first, _, last = selector.replace("latest", ">=1").partition("-")
                first = int(first.removeprefix(">="))
                last = int(last) if last else first if selector.isdigit() else len(partial.versions)
                fitting = [n for n in range(first, last + 1) if n <= len(partial.versions)]
                good = [n for n in fitting if n not in partial.deprecated or selector.isdigit()]
                number = max(good, default=None)
            else:
                number = partial.now(environment)
            if number is None:
                raise Broken(f"{alias}@{selector} chooses nothing in {environment}")
            found[alias, selector] = partial.versions[number - 1]
            self.includes(environment, found[alias, selector], (*path, alias), found)
        return found

    def render(self, environment, content):
        """The text that is sent when `x` is 7."""
        found = self.includes(environment, content)
        texts = [text_of(c) for c in [content, *found.values()]]
        if "variables" in content and any("{{ x }}" in t for t in texts) and "x" not in content["variables"]:
            raise Broken("x is not declared")
        fill = lambda text: INCLUDE.sub(lambda m: fill(text_of(found[m[1], m[2] or ""])), text)
        return fill(text_of(content)).replace("{{ x }}", "7")

    def served(self, alias, environment, session=False):
        """What an edge sends; None where nothing is in force."""
        prompt = self.artifacts.get(("prompt", alias))
        number = prompt and prompt.now(environment)
        for experiment in self.running(prompt=alias, environment=environment) if session else ():
            number = experiment["version"]
        return self.render(environment, prompt.versions[number - 1]) if number else None

    def broken(self):
        """What in force does not work, if anything (Q10)."""
        try:
            for kind, alias, environment, number in self.in_force(("prompt", "partial")):
                if not self.artifacts[kind, alias].usable:
                    raise Broken(f"{kind} {alias} is in force in {environment} and not enabled")
                if kind == "prompt":
                    self.served(alias, environment)
                    self.served(alias, environment, session=True)
            for alias, flow in self.of("flow").items():
                for step in flow.versions[-1]["steps"] if not flow.archived and flow.versions else ():
                    prompt = self.artifacts.get(("prompt", step["prompt"]))
                    if not prompt or not prompt.usable:
                        raise Broken(f"flow {alias} names the prompt {step['prompt']}, which is missing or not enabled")
        except Broken as why:
            return str(why)

    def used(self, kind, alias):
        """Whether it is in use (Q4)."""
        artifact = self.artifacts[kind, alias]
        if any(artifact.now(e) for e in ENVIRONMENTS):
            return True
        if kind == "partial":
            deployed = [self.artifacts[k, a].versions[n - 1] for k, a, _, n in self.in_force(("prompt", "partial"))]
            deployed += [self.artifacts["prompt", x["prompt"]].versions[x["version"] - 1] for x in self.running()]
            return any(alias == name for content in deployed for name, _ in INCLUDE.findall(text_of(content)))
        if kind != "prompt":
            return False
        flows = [f.versions[-1] for f in self.of("flow").values() if f.versions and not f.archived]
        # Archived ones too: one that comes back must find a default.
        others = [a for name, a in self.of("prompt").items() if name != alias]
        return bool(
            self.running(prompt=alias) or self.default == alias and others
            or any(step["prompt"] == alias for flow in flows for step in flow["steps"])
        )


@dataclass
class Call:
    """One operation: the request, why it should be refused (statuses), what it does otherwise."""

    method: str
    path: str
    body: dict | None
    refusals: set
    effect: object = lambda model: None
    may_refuse: bool = False  # both are sound: the rules leave it open


def sound(content):
    """Whether it is refused at once: only what includes nothing can be checked before it is deployed."""
    text = text_of(content)
    return INCLUDE.search(text) or "{{ x }}" not in text or "x" in content.get("variables", {"x": 1})


def some_content(choose, kind):
    text = choose.choice(["Hello", "Good day", "Go on"]) + f" {choose.randrange(5)}."
    text += choose.choice(["", "", " {{ x }}"])
    if choose.random() < (0.5 if kind == "prompt" else 0.25):
        selector = choose.choice(["", "", "@latest", "@1", "@2", "@>=2", "@1-2"])
        text += f" {{% include '{choose.choice(PARTIALS)}{selector}' %}}"
    if kind == "prompt" and choose.random() < 0.3:
        return system(text, variables=choose.choice([{}, {"x": {"default": "d"}}]))
    return system(text)


def some_artifact(choose, model=None, kinds=("prompt", "prompt", "prompt", "partial", "partial")):
    """Of `model` mostly one that exists."""
    kind = choose.choice(kinds)
    existing = sorted(model.of(kind)) if model and choose.random() < 0.8 else []
    alias = choose.choice(existing or NAMES[kind])
    return kind, alias, f"/artifacts/{kind}/{alias}"


def some_version(choose, artifact):
    """None for the newest; one that is not there now and then, and 0, which none has."""
    if choose.random() < 0.03:
        return 0
    return choose.choice([None, *range(1, len(artifact.versions) + 2 if artifact else 2)])


def create(choose, model):
    kind, alias, _ = some_artifact(choose)
    content = choose.choice([None, some_content(choose, kind), some_content(choose, kind)])
    refusals = {409} if (kind, alias) in model.artifacts else set()
    refusals |= set() if content is None or sound(content) else {400}
    body = {"alias": alias, **({"content": content} if content else {})}
    effect = lambda m: m.put(kind, alias, content) if content else m.make(kind, alias)
    return Call("POST", f"/artifacts/{kind}", body, refusals, effect)


def put_version(choose, model):
    kind, alias, path = some_artifact(choose)
    found = model.artifacts.get((kind, alias), Artifact())
    content = some_content(choose, kind)
    if found.versions and choose.random() < 0.25:
        content = choose.choice([found.versions[-1], choose.choice(found.versions)])
    body, refusals = {"content": content}, set() if sound(content) else {400}
    if choose.random() < 0.3:
        body["expected_version"] = choose.choice([len(found.versions), choose.randrange(4)])
        refusals |= {409} if body["expected_version"] != len(found.versions) else set()
    return Call("POST", f"{path}/versions", body, refusals, lambda m: m.put(kind, alias, content))


def put_draft(choose, model):
    kind, alias, path = some_artifact(choose, model)
    content = some_content(choose, kind)
    effect = lambda m: setattr(m.make(kind, alias), "draft", content)
    return Call("PUT", f"{path}/draft", {"content": content}, set() if sound(content) else {400}, effect)


def publish_draft(choose, model):
    kind, alias, path = some_artifact(choose, model)
    found = model.artifacts.get((kind, alias))

    def effect(m):
        m.put(kind, alias, m.artifacts[kind, alias].draft)
        m.artifacts[kind, alias].draft = None

    return Call("POST", f"{path}/draft/publish", {}, set() if found and found.draft else {404}, effect)


def deploy(choose, model, back=False):
    kind, alias, path = some_artifact(choose, model)
    environment, found = choose.choice(ENVIRONMENTS), model.artifacts.get((kind, alias))
    version = number = None if back and choose.random() < 0.6 else some_version(choose, found)
    body, refusals = {"environment": environment, "version": version}, set()
    if not found:
        refusals = {404}
    else:
        history = found.history[environment]
        if not found.usable:
            refusals |= {400, 409}
        if version is None and back:
            number = next((n for n in reversed(history) if n and n != found.now(environment)), None)
            refusals |= set() if number else {400}
        elif version is None:
            number = found.newest()
            refusals |= set() if number else {400} if found.versions else {404}
        elif not 1 <= version <= len(found.versions):
            refusals |= {404}
        if choose.random() < 0.3:
            body["expected_revision"] = choose.choice([len(history), choose.randrange(3)])
            refusals |= {409} if body["expected_revision"] != len(history) else set()
    effect = lambda m: m.artifacts[kind, alias].history[environment].append(number)
    return Call("POST", f"{path}/{'rollback' if back else 'deployments'}", body, refusals, effect)


def roll_back(choose, model):
    return deploy(choose, model, back=True)


def withdraw(choose, model):
    kind, alias, path = some_artifact(choose, model)
    environment, found = choose.choice(ENVIRONMENTS), model.artifacts.get((kind, alias))
    refusals = set() if found and found.now(environment) else {404}
    refusals |= {409} if kind == "prompt" and model.running(prompt=alias, environment=environment) else set()
    effect = lambda m: m.artifacts[kind, alias].history[environment].append(None)
    return Call("POST", f"{path}/withdraw", {"environment": environment}, refusals, effect)


def change(choose, model):
    kind, alias, path = some_artifact(choose, model, ("prompt", "prompt", "prompt", "partial", "partial", "flow"))
    body = choose.choice([
        {"enabled": False}, {"enabled": True}, {"enabled": True}, {"archived": True}, {"archived": False},
        {"archived": False}, {"is_default": True}, {"is_default": True}, {"is_default": False},
        {"enabled": False, "is_default": True}, {"archived": True, "is_default": True}, {"title": "T"},
    ])
    found = model.artifacts.get((kind, alias))
    after = {"enabled": found.enabled, "archived": found.archived, **body} if found else {}
    refusals = set() if found else {404}
    less = body.get("enabled") is False or body.get("archived") is True
    if found and less and model.used(kind, alias):
        refusals |= {409}
    if body.get("is_default") is False or found and "is_default" in body and (
        kind != "prompt" or not found.usable or not after["enabled"] or after["archived"]
    ):
        refusals |= {400, 409}

    def effect(m):
        artifact = m.artifacts[kind, alias]
        artifact.enabled, artifact.archived = after["enabled"], after["archived"]
        m.default = alias if body.get("is_default") else m.default

    # Whether the only prompt, which is the default, may be put aside is open; that the default works later is not.
    return Call("PATCH", path, body, refusals, effect, may_refuse=less and kind == "prompt" and model.default == alias)


def deprecate(choose, model):
    kind, alias, path = some_artifact(choose, model)
    found = model.artifacts.get((kind, alias))
    number, deprecated = some_version(choose, found) or 1, choose.random() < 0.6
    known = found and number <= len(found.versions)

    def effect(m):
        flagged = m.artifacts[kind, alias].deprecated
        flagged.add(number) if deprecated else flagged.discard(number)

    return Call("PATCH", f"{path}/versions/{number}", {"deprecated": deprecated}, set() if known else {404}, effect)


def delete(choose, model):
    kind, alias, path = some_artifact(choose, model, ("prompt", "prompt", "partial", "flow"))
    refusals = {404} if (kind, alias) not in model.artifacts else {409} if model.used(kind, alias) else set()
    return Call("DELETE", path, None, refusals, lambda m: m.delete(kind, alias))


def put_flow(choose, model):
    usable = [alias for alias, prompt in model.of("prompt").items() if prompt.usable]
    alias, steps = choose.choice(FLOWS), choose.sample(usable, min(len(usable), choose.randint(0, 2)))
    content = {"steps": [{"id": "a", "prompt": prompt} for prompt in steps]}
    effect = lambda m: m.put("flow", alias, content)
    return Call("POST", f"/artifacts/flow/{alias}/versions", {"content": content}, set(), effect)


def create_experiment(choose, model):
    name, alias, environment = choose.choice(EXPERIMENTS), choose.choice(PROMPTS), choose.choice(ENVIRONMENTS)
    found = model.artifacts.get(("prompt", alias))
    version = some_version(choose, found) or 1
    refusals = set() if found and version <= len(found.versions) else {404}
    refusals |= {409} if name in model.experiments else set()
    body = {"name": name, "prompt": alias, "environment": environment}
    made = {"prompt": alias, "environment": environment, "version": version, "state": "draft"}
    arms = [{"name": "all", "version": version, "weight": 1}]
    return Call("POST", "/experiments", {**body, "arms": arms}, refusals, lambda m: m.experiments.update({name: made}))


def change_experiment(choose, model):
    name, state = choose.choice(EXPERIMENTS), choose.choice(["running", "running", "stopped"])
    found = model.experiments.get(name)
    refusals = set() if found else {404}
    if found and state == "running" != found["state"]:
        place = {"prompt": found["prompt"], "environment": found["environment"]}
        refusals |= {409} if model.running(**place) else set()
        prompt = model.artifacts["prompt", found["prompt"]]
        refusals |= set() if prompt.now(found["environment"]) else {400}
    effect = lambda m: m.experiments[name].update(state=state)
    return Call("PATCH", f"/experiments/{name}", {"state": state}, refusals, effect)


def delete_experiment(choose, model):
    name = choose.choice(EXPERIMENTS)
    state = model.experiments.get(name, {}).get("state")
    refusals = {404} if state is None else {409} if state == "running" else set()
    return Call("DELETE", f"/experiments/{name}", None, refusals, lambda m: m.experiments.pop(name))


def migrate(choose, model):
    """A file that becomes a version, unless one of the versions is just that, and may be deployed at once."""
    alias, environment = choose.choice(PROMPTS), choose.choice([None, *ENVIRONMENTS])
    content = system(text_of(some_content(choose, "prompt")))
    found = model.artifacts.get(("prompt", alias), Artifact())
    equal = [n for n, version in enumerate(found.versions, 1) if version == content]
    number = max(equal, default=len(found.versions) + 1)
    deploys = environment and found.now(environment) != number

    def effect(m):
        if not equal:
            m.put("prompt", alias, content)
        if deploys:
            m.artifacts["prompt", alias].history[environment].append(number)

    body = {"files": [{"name": f"{alias}.jinja", "text": text_of(content)}], "on_conflict": "new-version"}
    refusals = {400, 409} if deploys and not found.usable else set()
    return Call("POST", "/migrations", {**body, "deploy_to": environment}, refusals, effect)


OPERATIONS = {
    create: 4, put_version: 12, put_draft: 3, publish_draft: 3, deploy: 16, roll_back: 10, withdraw: 10, change: 16,
    deprecate: 3, delete: 5, put_flow: 3, create_experiment: 6, change_experiment: 6, delete_experiment: 1, migrate: 3,
}
# Fewer kinds of operations come to the corners of one property sooner.
DEFAULTS = {create: 3, put_version: 1, change: 8, delete: 4}
REFERENCES = {
    put_version: 14, publish_draft: 2, put_draft: 2, deploy: 14, roll_back: 4, withdraw: 8, change: 5, deprecate: 5,
    delete: 3, create_experiment: 6, change_experiment: 8,
}
FOCUSES = {"all": (OPERATIONS, 200), "defaults": (DEFAULTS, 150), "references": (REFERENCES, 200)}


class History:
    """Random operations on one store; what was not as it should be is collected, and the model goes on from there."""

    def __init__(self, edge, seed, operations=OPERATIONS):
        self.edge, self.choose, self.model, self.operations = edge, random.Random(seed), Model(), operations
        self.api, self.done, self.faults, self.hashes, self.epoch = client(edge), [], {}, {}, 0

    def fault(self, what, detail):
        """Each kind of fault once, with the operations before it."""
        self.faults.setdefault(what, f"{what}\n  {detail}\n  after: " + "\n         ".join(self.done[-8:]))

    def run(self, steps):
        for step in range(steps):
            self.step()
            if step % 10 == 9 or step == steps - 1:
                self.compare()
            if step % 20 == 19 or step == steps - 1:
                self.compare_edge()
            if self.model.broken():
                break
        return self

    def step(self):
        for _ in range(3):  # what is not there is asked for seldom
            operation = self.choose.choices(list(self.operations), list(self.operations.values()))[0]
            call = operation(self.choose, self.model)
            if 404 not in call.refusals:
                break
        after = copy.deepcopy(self.model)
        if not call.refusals:
            call.effect(after)
            if why := after.broken():
                call.refusals, after = ANY_REFUSAL, self.model
        answer = self.api.request(call.method, call.path, json=call.body)
        told = f"{call.method} {call.path} {json.dumps(call.body)} -> {answer.status_code}"
        self.done.append(told)
        if call.refusals:
            as_expected, after = answer.status_code in call.refusals, self.model
        else:
            as_expected = answer.is_success or call.may_refuse and answer.status_code == 409
            after = after if answer.is_success else self.model
        self.model = after
        if not as_expected:
            wanted = f"refused with {sorted(call.refusals)}" if call.refusals else "done"
            why = why if call.refusals is ANY_REFUSAL else ""
            what = f"Q4/Q10: {operation.__name__} is {'done' if answer.is_success else 'refused'}, should be {wanted}"
            self.fault(f"{what} {re.sub(r'[ptf]?[0-9]', 'N', why)}", f"{told} {answer.text[:300]} {why}")
            self.model = self.seen()
        self.check_default()

    def check_default(self):
        """Q5, after every operation."""
        listed = get(self.api, "/artifacts/prompt?archived=true&limit=1000")["artifacts"]
        defaults = [a["alias"] for a in listed if a["is_default"]]
        usable = [alias for alias, prompt in self.model.of("prompt").items() if prompt.usable]
        present = [alias for alias, prompt in self.model.of("prompt").items() if not prompt.archived]
        if len(defaults) != 1 and present or len(defaults) > 1:
            self.fault("Q5: not exactly one default", f"defaults {defaults} of {present}: {self.done[-1]}")
        elif usable and defaults[0] not in usable:
            self.fault("Q5/Q10: the default is not enabled, and others are", f"{defaults} of {usable}: {self.done[-1]}")
        elif self.model.default in usable and defaults != [self.model.default]:
            self.fault("Q5: another default", f"{defaults}, not {self.model.default}: {self.done[-1]}")
        self.model.default = defaults[0] if defaults else None

    def seen(self):
        """The model of what the API shows; hashes are equal where contents are, and for good (Q3)."""
        model = Model()
        for kind in NAMES:
            for listed in get(self.api, f"/artifacts/{kind}?archived=true&limit=1000")["artifacts"]:
                path = f"/artifacts/{kind}/{listed['alias']}"
                versions = get(self.api, f"{path}/versions?limit=1000")["versions"][::-1]
                assert [v["number"] for v in versions] == list(range(1, listed["versions"] + 1)), path
                for version in versions:
                    body = json.dumps([kind == "flow", version["content"]], sort_keys=True)
                    if self.hashes.setdefault(body, version["content_hash"]) != version["content_hash"]:
                        self.fault("Q3: equal contents have different hashes", f"{path} {version}")
                artifact = Artifact(
                    [v["content"] for v in versions], {v["number"] for v in versions if v["status"] == "deprecated"},
                    get(self.api, f"{path}/draft")["content"] if listed["has_draft"] else None,
                    enabled=listed["enabled"], archived=listed["archived_at"] is not None,
                )
                for entry in get(self.api, f"{path}/deployments")["deployments"][::-1]:
                    history = artifact.history[entry["environment"]]
                    history.append(entry["version"])
                    assert entry["revision"] == len(history), (path, entry)
                now = [(e, artifact.now(e), len(artifact.history[e])) for e in ENVIRONMENTS if artifact.now(e)]
                told = [(d["environment"], d["version"], d["revision"]) for d in listed["deployments"]]
                assert sorted(told) == sorted(now), (path, told, now)
                model.artifacts[kind, listed["alias"]] = artifact
                if listed["is_default"]:
                    model.default = listed["alias"]
        for x in get(self.api, "/experiments")["experiments"]:
            kept = {name: x[name] for name in ["prompt", "environment", "state"]}
            model.experiments[x["name"]] = {**kept, "version": x["arms"][0]["version"]}
        if len(set(self.hashes.values())) != len(self.hashes):
            self.fault("Q3: different contents have equal hashes", self.hashes)
        return model

    def compare(self):
        """Everything that the API shows is what the model says (Q3, Q9), and what is in force renders (Q10)."""
        seen = self.seen()
        for what in ["artifacts", "experiments"]:
            ours, theirs = getattr(self.model, what), getattr(seen, what)
            for name in ours.keys() | theirs.keys():
                if ours.get(name) != theirs.get(name):
                    detail = f"{name}:\n    expected {ours.get(name)}\n    seen     {theirs.get(name)}"
                    self.fault(f"Q3/Q9: {what} are not what was done", detail)
        self.model = seen
        if broken := self.model.broken():
            self.fault("Q10: what is in force is broken", broken)
            return
        for _, alias, environment, number in self.model.in_force():
            asked = {"alias": alias, "version": number, "environment": environment, "variables": {"x": "7"}}
            answer = self.api.post("/render", json=asked)
            wanted = self.model.served(alias, environment)
            if answer.status_code != 200 or [m["content"] for m in answer.json()["messages"]] != [wanted]:
                self.fault("Q10: a deployed prompt does not render", f"{asked}: {answer.text}, expected {wanted!r}")

    def compare_edge(self):
        """The edge serves exactly what the model says, within seconds (Q6)."""
        if self.model.broken():
            return
        places = [(a, e, s) for a in PROMPTS for e in ENVIRONMENTS for s in [False, True]]
        wanted = {place: self.model.served(*place) for place in places}
        default = self.model.default and self.model.served(self.model.default, "production")

        def wrong():
            for (alias, environment, session), text in wanted.items():
                asked = {"prompt": alias, "environment": environment, **({"session": "s"} if session else {})}
                if (found := self.ask("plain", **asked)) != text:
                    return f"{asked}: {found!r}, expected {text!r}"
            found = self.ask("standard")
            if default and found != default or not default and "helpful assistant" not in found:
                return f"the default: {found!r}, expected {default!r}"

        end = time.monotonic() + 8
        while (found := wrong()) and time.monotonic() < end:
            time.sleep(0.05)
        if found:
            self.fault("Q6: the edge does not serve what the store holds", found)

    def ask(self, route, **asked):
        text, epoch = explain(self.edge, route, **asked)
        if epoch < self.epoch or self.edge.epoch() < epoch:
            self.fault("Q6: the epoch went back", f"{epoch} after {self.epoch}")
        self.epoch = max(epoch, self.epoch)
        return text


def client(edge, **tenant):
    headers = {"authorization": f"Bearer {(edge.store.folder / 'operator.token').read_text().strip()}"}
    return httpx.Client(base_url=f"http://{edge.admin}/api/v1", headers=headers, timeout=30, params=tenant)


def get(api, path):
    return good(api.get(path))


def good(answer):
    assert answer.is_success, (answer.request.method, str(answer.request.url), answer.status_code, answer.text)
    return answer.json()


def explain(edge, route, **asked):
    """The system message that would be sent (None where nothing is in force), and the epoch."""
    body = user("hi", model=route, sluice={**asked, "variables": {"x": "7"}})
    answer = edge.send("POST", "/v1/explain", body, edge.key)
    assert answer.status in (200, 404), answer
    text = answer.json()["body"]["messages"][0]["content"] if answer.status == 200 else None
    return text, int(answer.headers["x-sluice-epoch"])


@pytest.fixture(params=["sqlite", "postgres"])
def edge(request, tmp_path, mock):
    """Store, publisher, edge and API in one process, without any prompt."""
    url = request.getfixturevalue("postgres").database() if request.param == "postgres" else None
    store = Store(tmp_path / "data", url)
    key = store.key(asserts=ALL_ASSERTS)
    edge = Edge(store, config_for(mock, EDGE))
    edge.key = edge.wait_key(key)
    yield edge
    edge.stop()


@pytest.fixture(params=SEEDS)
def seed(request):
    """A few fixed ones and a new one, which a failure shows."""
    return FRESH if request.param == "fresh" else request.param


@pytest.mark.parametrize("focus, seed", [
    ("all", 1), ("all", 2), ("all", "fresh"), ("defaults", 6), ("defaults", "fresh"), ("references", 1),
    ("references", 2), ("references", "fresh"),
], indirect=["seed"])
@pytest.mark.timeout(300)
def test_a_history_is_as_the_model_says(edge, focus, seed):
    """Q3, Q4, Q5, Q6, Q9 and Q10."""
    operations, steps = FOCUSES[focus]
    done = History(edge, seed, operations).run(steps)
    if done.faults:
        pytest.fail(f"seed {seed}, {len(done.done)} operations:\n\n" + "\n\n".join(done.faults.values()), False)


def test_files_change_nothing_once_they_were_imported(edge, seed):
    """Q1."""
    choose, store = random.Random(seed), edge.store
    folder = store.folder / "prompts"
    folder.mkdir()
    texts = {f"p{n}": f"Imported {choose.random()}." for n in range(4)}
    for alias, text in texts.items():
        (folder / f"{alias}.jinja").write_text(text)
    store.run("import", folder, "--deploy", "production")
    served = lambda: {alias: explain(edge, "plain", prompt=alias)[0] for alias in [*texts, "p9", "default"]}
    wanted = {**texts, "p9": None, "default": texts["p0"]}
    eventually("what was imported is served", lambda: served() == wanted)
    held = get(client(edge), "/export")
    for _ in range(30):
        place = choose.choice([folder, store.folder, store.folder / "samples" / "prompts"])
        file = place / f"{choose.choice([*texts, 'p9'])}{choose.choice(['.jinja', '.jinja', '.json', '.prompty'])}"
        if choose.random() < 0.4:
            file.unlink(missing_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(choose.choice(["Dropped.", "{% broken", json.dumps(system("Dropped."))]))
        assert served() == wanted
    edge.restart(kill=choose.random() < 0.5)
    edge.wait_ready()
    time.sleep(1)
    assert served() == wanted and get(client(edge), "/export") == held


def at_once(calls):
    """Makes all calls at the same time; gives what they gave."""
    given, start = [], threading.Barrier(len(calls))

    def run(call):
        start.wait()
        given.append(call())

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(given) == len(calls)
    return given


def test_of_many_who_create_one_alias_one_does(edge, seed):
    """Q2; prompts and personas share their names."""
    choose = random.Random(seed)
    with client(edge) as api:
        for turn in range(4):
            alias, kinds = f"n{turn}", choose.choice([["prompt"], ["prompt", "persona"], ["partial"], ["tool"]])

            def call(kind=None, number=None):
                content = {"n": number} if kind == "tool" else system(f"By {number}.")
                body = {"alias": alias, **choose.choice([{}, {"content": content}])}
                return lambda: api.post(f"/artifacts/{kind}", json=body)

            answers = at_once([call(choose.choice(kinds), n) for n in range(choose.randint(2, 16))])
            told = Counter(answer.status_code for answer in answers)
            assert told == {201: 1, 409: len(answers) - 1}, (seed, kinds, [answer.text for answer in answers])
            made = [get(api, f"/artifacts/{kind}?archived=true")["artifacts"] for kind in set(kinds)]
            assert [a["alias"] for listed in made for a in listed].count(alias) == 1, (seed, made)


def test_nothing_older_is_served_after_something_newer(edge, seed):
    """Q6: a prompt and its partial count upwards while many ask."""
    choose, api = random.Random(seed), client(edge)
    post = lambda path, body: good(api.post(f"/artifacts/{path}", json=body))
    newest, seen, faults, stop = [0, 0], [(0, 0, 0)], [], threading.Event()

    def ask():
        while not stop.wait(0.005):
            floor = seen[-1]
            text, epoch = explain(edge, "plain", prompt="p0")
            found = (epoch, *map(int, text.split("."))) if text else (epoch, 0, 0)
            if any(new < old for new, old in zip(found, floor)):
                faults.append((floor, found))
            if all(new >= old for new, old in zip(found, seen[-1])):
                seen.append(found)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    [a.start() for a in askers]
    try:
        for step in range(16):
            part = 1 if step == 0 else choose.randrange(2)
            newest[part] += 1
            text = [f"{newest[0]}.{{% include 't0' %}}", f"{newest[1]}"][part]
            post(f"{['prompt/p0', 'partial/t0'][part]}/versions", {"content": system(text)})
            post(f"{['prompt/p0', 'partial/t0'][part]}/deployments", {"environment": "production"})
            if choose.random() < 0.3:
                time.sleep(choose.random() / 3)
        eventually("the newest is served", lambda: seen[-1][1:] == tuple(newest), 8)
    finally:
        stop.set()
        [a.join() for a in askers]
    assert not faults, (seed, faults)


def some_files(choose):
    """Prompts of several systems, some of one alias, some that include each other."""
    text = lambda: choose.choice(["Hello", "Dear {{ who }}", "Rate"]) + f" {choose.randrange(3)}."
    files = {}
    for _ in range(choose.randint(1, 5)):
        alias = choose.choice([*PROMPTS[:3], *PARTIALS[:2]])
        ending = choose.choice(["jinja", "jinja", "mustache", "prompty", "prompt", "json"])
        files[f"{alias}.{ending}"] = {
            "jinja": text() + choose.choice(["", "", " {% include 't0' %}", " {% include 't1@1' %}"]),
            "mustache": text(),
            "prompty": f"---\nname: {alias}\n---\nsystem:\n{text()}\n",
            "prompt": f"---\nmodel: m\n---\n{text()}",
            "json": json.dumps({"data": [{"name": alias, "prompt": text(), "config": {"temperature": 0.5}}]}),
        }[ending]
    return [{"name": name, "text": text} for name, text in files.items()]


def test_a_migration_is_done_once(edge, seed):
    """Q7, on top of whatever is there."""
    done = History(edge, seed).run(40)
    faults = {}
    for _ in range(15):
        body = {
            "files": some_files(done.choose),
            "on_conflict": done.choose.choice(["fail", "skip", "rename", "new-version"]),
            "deploy_to": done.choose.choice([None, "production", "staging"]),
            "keep_going": done.choose.random() < 0.3,
        }
        first = done.api.post("/migrations", json=body)
        if first.is_success and first.json()["failed"]:
            # What failed for want of another may come with a second run.
            done.api.post("/migrations", json=body)
        held = done.seen()
        again = done.api.post("/migrations", json=body)
        changed = [name for name in ["created", "updated", "renamed"] if again.is_success and again.json()[name]]
        after = done.seen()
        if first.is_success != again.is_success or changed or after != held:
            other = [(name, was, after.artifacts.get(name)) for name, was in held.artifacts.items()]
            other = [(name, was.history, now and now.history) for name, was, now in other if was != now]
            detail = f"{json.dumps(body)}\n  first {first.text}\n  again {again.text}\n  changed {other}"
            faults.setdefault((first.is_success, again.is_success, *changed), detail)
    if faults:
        pytest.fail(f"seed {seed}:\n" + "\n\n".join(faults.values()), False)


def test_an_export_comes_back_byte_for_byte(edge, seed):
    """Q8, into another tenant, which has one default afterwards (Q5)."""
    done = History(edge, seed).run(80)
    with client(edge, tenant="other") as other:
        alphabet = string.printable.replace("{", "").replace("}", "") + "äß中文🦦\u200b\u2028\ufeff"
        for number in range(3):
            text = "".join(done.choose.choices(alphabet, k=300))
            content = system(text, parameters={"n": 1.50, "deep": {"b": [1, None, 1e300]}})
            body = {"alias": f"any{number}", "title": "T", "tags": ["a", "b"], "visibility": "public"}
            good(done.api.post("/artifacts/prompt", json={**body, "content": content}))
        good(done.api.patch("/artifacts/prompt/any0/versions/1", json={"deprecated": True}))
        # A draft that says what a version says is a draft all the same.
        drafted = get(done.api, "/artifacts/prompt/any1/versions/1")["content"]
        good(done.api.put("/artifacts/prompt/any1/draft", json={"content": drafted}))
        good(done.api.post("/tenants", json={"name": "other"}))
        source = get(done.api, "/export")
        report = good(other.post("/import", json={"bundle": source}))
        names = sorted(artifact["alias"] for artifact in source["artifacts"])
        assert sorted(report["created"]) == names, (seed, report)
        target = get(other, "/export")

        def plain(bundle):
            artifacts = [{k: v for k, v in a.items() if k != "deployments"} for a in bundle["artifacts"]]
            version = lambda v: {k: v for k, v in v.items() if k not in ("author", "created_at")}
            return {(a["kind"], a["alias"]): {**a, "versions": list(map(version, a["versions"]))} for a in artifacts}

        pairs = [(was, plain(target)[name]) for name, was in plain(source).items()]
        faults = [f"exported {was}\nimported {now}" for was, now in pairs if was != now][:1]
        second = good(other.post("/import", json={"bundle": source}))
        if sorted(second["unchanged"]) != names or get(other, "/export") != target:
            faults.append(f"the second import: {second}")
        prompts = get(other, "/artifacts/prompt?archived=true")["artifacts"]
        defaults = [a["alias"] for a in prompts if a["is_default"] and a["enabled"]]
        if len(defaults) != 1 or sum(a["is_default"] for a in prompts) != 1:
            faults.append(f"Q5: defaults {[(a['alias'], a['enabled']) for a in prompts if a['is_default']]} of {names}")
    if faults:
        pytest.fail(f"seed {seed}:\n" + "\n\n".join(faults), False)


def test_a_flow_names_only_what_there_is(edge):
    """Q10: a flow is in force with its newest version."""
    with client(edge) as api:
        for alias, change in [("gone", None), ("off", {"enabled": False}), ("old", {"archived": True})]:
            if change:
                good(api.post("/artifacts/prompt", json={"alias": "p0"})) if alias == "off" else None
                good(api.post("/artifacts/prompt", json={"alias": alias, "content": system("Hi.")}))
                good(api.patch(f"/artifacts/prompt/{alias}", json=change))
            content = {"steps": [{"id": "a", "prompt": alias}]}
            answer = api.post("/artifacts/flow", json={"alias": f"f-{alias}", "content": content})
            assert answer.status_code in ANY_REFUSAL, f"a flow that names `{alias}`: {answer.status_code} {answer.text}"
