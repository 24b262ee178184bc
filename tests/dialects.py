"""The four dialects on the wire, as far as tests need them: requests to send, answers and requests to read.

A test that is about one dialect pair says what it wants in the few words below and never spells a body itself.
"""

import base64
import json
import re
import struct
import zlib
from dataclasses import dataclass, field

CHAT, RESPONSES, MESSAGES, GEMINI = "chat", "responses", "messages", "gemini"
DIALECTS = [CHAT, RESPONSES, MESSAGES, GEMINI]

TOOL = {
    "name": "look_up",
    "description": "Finds an order.",
    "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]},
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def png():
    """One red dot."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


PNG = png()
PNG_BASE64 = base64.b64encode(PNG).decode()


def path(dialect, model, stream=False):
    match dialect:
        case "chat":
            return "/v1/chat/completions"
        case "responses":
            return "/v1/responses"
        case "messages":
            return "/v1/messages"
        case "gemini" if stream:
            return f"/v1beta/models/{model}:streamGenerateContent?alt=sse"
        case "gemini":
            return f"/v1beta/models/{model}:generateContent"


def body(dialect, model, text, stream=False, system=None, **more):
    """A conversation of one user turn."""
    user = [{"role": "user", "content": text}]
    streamed = {"stream": True} if stream else {}
    match dialect:
        case "chat":
            told = [{"role": "system", "content": system}] if system else []
            return {"model": model, "messages": told + user, **streamed, **more}
        case "responses":
            told = {"instructions": system} if system else {}
            return {"model": model, "input": user, **told, **streamed, **more}
        case "messages":
            told = {"system": system} if system else {}
            return {"model": model, "max_tokens": 100, "messages": user, **told, **streamed, **more}
        case "gemini":
            told = {"systemInstruction": {"parts": [{"text": system}]}} if system else {}
            return {"contents": [{"role": "user", "parts": [{"text": text}]}], **told, **more}


def with_tool(dialect):
    """What a request says to offer TOOL."""
    match dialect:
        case "chat":
            return {"tools": [{"type": "function", "function": TOOL}]}
        case "responses":
            return {"tools": [{"type": "function", "strict": False, **TOOL}]}
        case "messages":
            return {"tools": [{"name": TOOL["name"], "input_schema": TOOL["parameters"]}]}
        case "gemini":
            declared = {"name": TOOL["name"], "parametersJsonSchema": TOOL["parameters"]}
            return {"tools": [{"functionDeclarations": [declared]}]}


def credentials(dialect, key):
    """The header in which the dialect's own clients send the key."""
    match dialect:
        case "messages":
            return {"x-api-key": key, "anthropic-version": "2023-06-01"}
        case "gemini":
            return {"x-goog-api-key": key}
        case _:
            return {"authorization": f"Bearer {key}"}


def ask(edge, dialect, model, text, key, stream=False, mock=None, mark=None, headers=None, **more):
    """One exchange in a dialect; `mock` scripts the provider for this request alone."""
    headers = {**credentials(dialect, key), **(headers or {})}
    if mock is not None:
        headers["x-mock"] = json.dumps(mock)
    if mark is not None:
        headers["x-custom"] = mark
    return edge.send(
        "POST", path(dialect, model, stream), body(dialect, model, text, stream, **more), headers=headers
    )


@dataclass
class Said:
    """An answer, free of its dialect."""

    text: str = ""
    calls: list = field(default_factory=list)
    """Pairs of a name and the arguments' JSON text."""
    finish: str | None = None
    usage: tuple | None = None
    """Input and output tokens."""
    done: bool = False
    """The dialect's terminator was seen (of a plain answer: it is whole)."""
    error: dict | None = None
    """An in-band error: what is under `error`, or the Responses event itself."""
    broken: bool = False
    """A frame that is no JSON."""


def arguments(value):
    return value if isinstance(value, str) else json.dumps(value)


def read_plain(dialect, answer):
    """A whole answer."""
    said = Said(done=True)
    match dialect:
        case "chat":
            choice = answer["choices"][0]
            said.text = choice["message"].get("content") or ""
            calls = choice["message"].get("tool_calls") or []
            said.calls = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
            said.finish = choice["finish_reason"]
            said.usage = usage_of(answer.get("usage"), "prompt_tokens", "completion_tokens")
        case "responses":
            read_response(answer, said)
        case "messages":
            said.text = "".join(block["text"] for block in answer["content"] if block["type"] == "text")
            tools = [block for block in answer["content"] if block["type"] == "tool_use"]
            said.calls = [(block["name"], arguments(block["input"])) for block in tools]
            said.finish = answer["stop_reason"]
            said.usage = usage_of(answer.get("usage"), "input_tokens", "output_tokens")
        case "gemini":
            read_gemini(answer, said)
    return said


def usage_of(usage, *names):
    return tuple(usage[name] for name in names) if usage and all(name in usage for name in names) else None


def read_response(response, said):
    """The output of a Responses object; what deltas said before is replaced by it."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    said.text = "".join(part["text"] for item in messages for part in item["content"] if part["type"] == "output_text")
    called = [item for item in response["output"] if item["type"] == "function_call"]
    said.calls = [(item["name"], item["arguments"]) for item in called]
    said.finish = response["status"]
    said.usage = usage_of(response.get("usage"), "input_tokens", "output_tokens")


def read_gemini(chunk, said):
    candidate = (chunk.get("candidates") or [{}])[0]
    for part in candidate.get("content", {}).get("parts") or []:
        if "functionCall" in part:
            said.calls.append((part["functionCall"]["name"], arguments(part["functionCall"].get("args", {}))))
        elif not part.get("thought"):
            said.text += part.get("text", "")
    said.finish = candidate.get("finishReason") or said.finish
    said.usage = usage_of(chunk.get("usageMetadata"), "promptTokenCount", "candidatesTokenCount") or said.usage


def frames(stream):
    """The events of a stream: pairs of a name (or None) and the data; comments are left out."""
    found = []
    for block in stream.decode(errors="replace").replace("\r\n", "\n").split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n") if not line.startswith(":")]
        data = [value for name, _, value in lines if name == "data"]
        if data:
            found.append((next((value for name, _, value in lines if name == "event"), None), "\n".join(data)))
    return found


def read_stream(dialect, stream):
    """A streamed answer put together as a client would."""
    said = Said()
    calls = {}
    for name, data in frames(stream):
        if data == "[DONE]":
            said.done = dialect == CHAT
            continue
        try:
            event = json.loads(data)
        except json.JSONDecodeError:
            said.broken = True
            continue
        if dialect == RESPONSES and event.get("type") == "error":
            said.error = event
        elif event.get("error"):
            said.error = event["error"]
        else:
            take(dialect, event, said, calls)
    said.calls = said.calls or [(call["name"], call["arguments"]) for call in calls.values()]
    return said


def take(dialect, event, said, calls):
    match dialect:
        case "chat":
            take_chat(event, said, calls)
        case "responses":
            take_response(event, said, calls)
        case "messages":
            take_message(event, said, calls)
        case "gemini":
            read_gemini(event, said)
            said.done = said.finish is not None


def take_chat(event, said, calls):
    said.usage = usage_of(event.get("usage"), "prompt_tokens", "completion_tokens") or said.usage
    for choice in event.get("choices") or []:
        said.text += choice["delta"].get("content") or ""
        said.finish = choice.get("finish_reason") or said.finish
        for call in choice["delta"].get("tool_calls") or []:
            kept = calls.setdefault(call["index"], {"name": "", "arguments": ""})
            kept["name"] += call["function"].get("name") or ""
            kept["arguments"] += call["function"].get("arguments") or ""


def take_response(event, said, calls):
    match event["type"]:
        case "response.output_text.delta":
            said.text += event["delta"]
        case "response.output_item.added" if event["item"]["type"] == "function_call":
            calls[event["output_index"]] = {"name": event["item"]["name"], "arguments": ""}
        case "response.function_call_arguments.delta":
            calls[event["output_index"]]["arguments"] += event["delta"]
        case "response.completed" | "response.incomplete":
            streamed = said.text
            read_response(event["response"], said)
            assert streamed == said.text, "the deltas and the completed response differ"
            said.done = True


def take_message(event, said, calls):
    match event["type"]:
        case "message_start":
            said.usage = (event["message"]["usage"]["input_tokens"], 0)
        case "content_block_start" if event["content_block"]["type"] == "tool_use":
            calls[event["index"]] = {"name": event["content_block"]["name"], "arguments": ""}
        case "content_block_delta" if event["delta"]["type"] == "text_delta":
            said.text += event["delta"]["text"]
        case "content_block_delta" if event["delta"]["type"] == "input_json_delta":
            calls[event["index"]]["arguments"] += event["delta"]["partial_json"]
        case "message_delta":
            said.finish = event["delta"]["stop_reason"]
            told = event.get("usage") or {}
            known = said.usage or (0, 0)
            said.usage = (told.get("input_tokens") or known[0], told.get("output_tokens") or known[1])
        case "message_stop":
            said.done = True


def error_code(dialect, error):
    """Sluice's own code within an error in the dialect's shape; `error` is what stands under `error`."""
    if dialect == GEMINI:
        reasons = [detail.get("reason") for detail in error.get("details") or []]
        return reasons[0] if reasons else None
    return error.get("code")


def check_error_shape(dialect, answer):
    """An error body is in the shape of the client's dialect; gives what is under `error`."""
    told = answer.json()
    error = told["error"]
    assert error["message"]
    match dialect:
        case "messages":
            assert told["type"] == "error"
            assert isinstance(error["type"], str)
        case "gemini":
            assert error["code"] == answer.status
            assert error["status"].isupper()
        case _:
            assert {"message", "type", "param", "code"} <= set(error)
    return error


@dataclass
class Asked:
    """A request as the provider got it, free of its dialect."""

    dialect: str
    model: str
    system: str = ""
    turns: list = field(default_factory=list)
    """Pairs of a role and the text of each turn that has text."""
    tools: dict = field(default_factory=dict)
    """Each tool's name and its parameters' schema."""
    schema: dict | None = None
    images: list = field(default_factory=list)
    """Pairs of a media type and base64."""
    calls: list = field(default_factory=list)
    """Pairs of a name and the arguments, decoded."""
    results: list = field(default_factory=list)
    """The texts (or decoded objects) of tool results."""
    max_tokens: int | None = None

    @property
    def text(self):
        return "\n".join(text for _, text in self.turns)


def asked(record):
    """Reads an entry of the mock's `/mock/requests`."""
    place = record["path"].partition("?")[0]
    request = json.loads(record["body"])
    if place.endswith("/chat/completions"):
        return asked_chat(request)
    if place.endswith("/responses"):
        return asked_responses(request)
    if place.endswith("/messages"):
        return asked_messages(request)
    model = place.rpartition("/models/")[2].partition(":")[0]
    return asked_gemini(model, camel(request))


def camel(value):
    """Google takes its members in either spelling, and its own client mixes them. What a user named is left alone."""
    named_by_users = ("args", "response", "properties")
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    spelled = {re.sub("_([a-z])", lambda found: found[1].upper(), name): name for name in value}
    return {name: value[old] if name in named_by_users else camel(value[old]) for name, old in spelled.items()}


def texts(content, kinds=("text", "input_text", "output_text")):
    """The text of a content that is a string or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in content if part.get("type") in kinds)


def data_uri(uri):
    kind, _, data = uri.removeprefix("data:").partition(";base64,")
    return kind, data


def asked_chat(request):
    got = Asked(CHAT, request["model"], max_tokens=request.get("max_completion_tokens") or request.get("max_tokens"))
    for message in request["messages"]:
        content = message.get("content")
        if message["role"] in ("system", "developer"):
            got.system += texts(content)
        elif message["role"] == "tool":
            got.results.append(texts(content))
        elif texts(content):
            got.turns.append((message["role"], texts(content)))
        for part in content if isinstance(content, list) else []:
            if part["type"] == "image_url":
                got.images.append(data_uri(part["image_url"]["url"]))
        for call in message.get("tool_calls") or []:
            got.calls.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
    got.tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in request.get("tools") or []}
    wanted = request.get("response_format") or {}
    got.schema = wanted.get("json_schema", {}).get("schema")
    return got


def asked_responses(request):
    got = Asked(RESPONSES, request["model"], request.get("instructions") or "")
    got.max_tokens = request.get("max_output_tokens")
    items = request["input"]
    for item in [{"role": "user", "content": items}] if isinstance(items, str) else items:
        match item.get("type", "message"):
            case "function_call":
                got.calls.append((item["name"], json.loads(item["arguments"])))
            case "function_call_output":
                got.results.append(texts(item["output"]))
            case "message" if item["role"] in ("system", "developer"):
                got.system += texts(item["content"])
            case "message":
                got.turns.append((item["role"], texts(item["content"])))
                for part in item["content"] if isinstance(item["content"], list) else []:
                    if part["type"] == "input_image":
                        got.images.append(data_uri(part["image_url"]))
    got.tools = {tool["name"]: tool["parameters"] for tool in request.get("tools") or []}
    got.schema = request.get("text", {}).get("format", {}).get("schema")
    return got


def asked_messages(request):
    got = Asked(MESSAGES, request["model"], texts(request.get("system")), max_tokens=request["max_tokens"])
    for message in request["messages"]:
        content = message["content"]
        if texts(content):
            got.turns.append((message["role"], texts(content)))
        for part in content if isinstance(content, list) else []:
            match part["type"]:
                case "image":
                    got.images.append((part["source"]["media_type"], part["source"]["data"]))
                case "tool_use":
                    got.calls.append((part["name"], part["input"]))
                case "tool_result":
                    got.results.append(texts(part["content"]))
    got.tools = {tool["name"]: tool["input_schema"] for tool in request.get("tools") or []}
    got.schema = request.get("output_config", {}).get("format", {}).get("schema")
    return got


def asked_gemini(model, request):
    made = request.get("generationConfig") or {}
    told = request.get("systemInstruction") or {}
    got = Asked(GEMINI, model, "\n".join(part["text"] for part in told.get("parts", [])))
    got.max_tokens = made.get("maxOutputTokens")
    for content in request["contents"]:
        said = [part["text"] for part in content["parts"] if part.get("text") and not part.get("thought")]
        if said:
            got.turns.append((content.get("role", "user"), "\n".join(said)))
        for part in content["parts"]:
            if "inlineData" in part:
                got.images.append((part["inlineData"]["mimeType"], part["inlineData"]["data"]))
            if "functionCall" in part:
                got.calls.append((part["functionCall"]["name"], part["functionCall"]["args"]))
            if "functionResponse" in part:
                got.results.append(part["functionResponse"]["response"])
    for tool in request.get("tools") or []:
        for declared in tool.get("functionDeclarations") or []:
            got.tools[declared["name"]] = declared.get("parametersJsonSchema") or declared.get("parameters")
    got.schema = made.get("responseJsonSchema") or made.get("responseSchema")
    return got
