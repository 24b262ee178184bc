"""Every client library the tests drive, behind one question: send this job, say what came back.

A job is a dictionary, so that it can also go to a library that lives in a process of its own:
`model`, `text`, `headers`, and where wanted `stream`, `tools`, `schema`, `image`, `tool_result` (the text goes out with
an earlier tool call and its result), `leave_after` (close the stream after so many deltas). The reply is one too:
`text`, `deltas`, `finish`, `calls` (pairs of name and decoded arguments), `usage` (input, output), or `error` with
`kind`, `status`, `code` and `message`.
"""

import json
import os
import subprocess
import threading

import anthropic
import openai
from google import genai
from google.genai import errors as genai_errors
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

import dialects
from dialects import PNG, PNG_BASE64, SCHEMA, TOOL
from harness import ROOT, TESTS

CALLED = {"order": 17}
RESULT = '{"state": "sent"}'
DATA_URI = f"data:image/png;base64,{PNG_BASE64}"
SECONDS = 10


def reply(text="", **more):
    return {"text": text, "deltas": 0, "finish": None, "calls": [], "usage": None, "error": None, **more}


def failed(error, status=None, code=None):
    return reply(error={"kind": type(error).__name__, "status": status, "code": code, "message": str(error)})


def usage(told, inward, outward):
    return told and [getattr(told, inward), getattr(told, outward)]


class OpenAIChat:
    dialect = dialects.CHAT
    finishes = {"whole": "stop", "called": "tool_calls"}

    def __init__(self, base, key):
        self.client = openai.OpenAI(base_url=f"http://{base}/v1", api_key=key, max_retries=0, timeout=SECONDS)

    def send(self, job):
        try:
            return self.streamed(job) if job.get("stream") else self.plain(job)
        except openai.APIError as error:
            return failed(error, getattr(error, "status_code", None), error.code)

    def arguments(self, job):
        content = job["text"]
        if job.get("image"):
            picture = {"type": "image_url", "image_url": {"url": DATA_URI}}
            content = [{"type": "text", "text": content}, picture]
        messages = [{"role": "user", "content": content}]
        if job.get("tool_result"):
            function = {"name": TOOL["name"], "arguments": json.dumps(CALLED)}
            call = {"id": "call_1", "type": "function", "function": function}
            messages += [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": RESULT},
            ]
        made = {"model": job["model"], "messages": messages, "extra_headers": job["headers"]}
        if job.get("tools") or job.get("tool_result"):
            made |= dialects.with_tool(dialects.CHAT)
        if job.get("schema"):
            shape = {"name": "trip", "schema": SCHEMA}
            made["response_format"] = {"type": "json_schema", "json_schema": shape}
        return made

    def plain(self, job):
        answer = self.client.chat.completions.create(**self.arguments(job))
        choice = answer.choices[0]
        calls = [[c.function.name, json.loads(c.function.arguments)] for c in choice.message.tool_calls or []]
        spent = usage(answer.usage, "prompt_tokens", "completion_tokens")
        return reply(choice.message.content or "", finish=choice.finish_reason, calls=calls, usage=spent)

    def streamed(self, job):
        said, calls = reply(), {}
        more = {"stream": True, "stream_options": {"include_usage": True}}
        with self.client.chat.completions.create(**self.arguments(job), **more) as stream:
            for chunk in stream:
                said["usage"] = usage(chunk.usage, "prompt_tokens", "completion_tokens") or said["usage"]
                for choice in chunk.choices:
                    said["finish"] = choice.finish_reason or said["finish"]
                    for call in choice.delta.tool_calls or []:
                        kept = calls.setdefault(call.index, ["", ""])
                        kept[0] += call.function.name or ""
                        kept[1] += call.function.arguments or ""
                    if choice.delta.content:
                        said["text"] += choice.delta.content
                        said["deltas"] += 1
                if said["deltas"] == job.get("leave_after"):
                    break
        said["calls"] = [[name, json.loads(text)] for name, text in calls.values()]
        return said


class OpenAIResponses(OpenAIChat):
    dialect = dialects.RESPONSES
    finishes = {"whole": "completed", "called": "completed"}

    def arguments(self, job):
        content = job["text"]
        if job.get("image"):
            content = [
                {"type": "input_text", "text": content},
                {"type": "input_image", "image_url": DATA_URI, "detail": "auto"},
            ]
        items = [{"role": "user", "content": content}]
        if job.get("tool_result"):
            call = {"call_id": "call_1", "name": TOOL["name"], "arguments": json.dumps(CALLED)}
            items += [
                {"type": "function_call", **call},
                {"type": "function_call_output", "call_id": "call_1", "output": RESULT},
            ]
        made = {"model": job["model"], "input": items, "extra_headers": job["headers"]}
        if job.get("tools") or job.get("tool_result"):
            made |= dialects.with_tool(dialects.RESPONSES)
        if job.get("schema"):
            made["text"] = {"format": {"type": "json_schema", "name": "trip", "schema": SCHEMA}}
        return made

    def read(self, answer):
        calls = [[i.name, json.loads(i.arguments)] for i in answer.output if i.type == "function_call"]
        spent = usage(answer.usage, "input_tokens", "output_tokens")
        return reply(answer.output_text, finish=answer.status, calls=calls, usage=spent)

    def plain(self, job):
        return self.read(self.client.responses.create(**self.arguments(job)))

    def streamed(self, job):
        deltas = []
        with self.client.responses.create(**self.arguments(job), stream=True) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    deltas.append(event.delta)
                if event.type == "error":
                    return reply(error={"kind": "error", "status": None, "code": event.code, "message": event.message})
                if event.type == "response.completed":
                    said = self.read(event.response)
                    assert "".join(deltas) == said["text"]
                    return {**said, "deltas": len(deltas)}
                if len(deltas) == job.get("leave_after"):
                    break
        return reply("".join(deltas), deltas=len(deltas))


class Anthropic:
    dialect = dialects.MESSAGES
    finishes = {"whole": "end_turn", "called": "tool_use"}

    def __init__(self, base, key):
        self.client = anthropic.Anthropic(base_url=f"http://{base}", api_key=key, max_retries=0, timeout=SECONDS)

    def send(self, job):
        try:
            return self.streamed(job) if job.get("stream") else self.plain(job)
        except anthropic.APIError as error:
            told = error.body.get("error", {}) if isinstance(error.body, dict) else {}
            return failed(error, getattr(error, "status_code", None), told.get("code"))

    def arguments(self, job):
        content = job["text"]
        if job.get("image"):
            source = {"type": "base64", "media_type": "image/png", "data": PNG_BASE64}
            content = [{"type": "text", "text": content}, {"type": "image", "source": source}]
        messages = [{"role": "user", "content": content}]
        if job.get("tool_result"):
            call = {"type": "tool_use", "id": "toolu_1", "name": TOOL["name"], "input": CALLED}
            result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": RESULT}
            messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        made = {"model": job["model"], "max_tokens": 200, "messages": messages, "extra_headers": job["headers"]}
        if job.get("tools") or job.get("tool_result"):
            made |= dialects.with_tool(dialects.MESSAGES)
        if job.get("schema"):
            made["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        return made

    def read(self, answer):
        text = "".join(block.text for block in answer.content if block.type == "text")
        calls = [[block.name, block.input] for block in answer.content if block.type == "tool_use"]
        spent = usage(answer.usage, "input_tokens", "output_tokens")
        return reply(text, finish=answer.stop_reason, calls=calls, usage=spent)

    def plain(self, job):
        return self.read(self.client.messages.create(**self.arguments(job)))

    def streamed(self, job):
        deltas = []
        with self.client.messages.stream(**self.arguments(job)) as stream:
            for delta in stream.text_stream:
                deltas.append(delta)
                if len(deltas) == job.get("leave_after"):
                    return reply("".join(deltas), deltas=len(deltas))
            return {**self.read(stream.get_final_message()), "deltas": len(deltas)}


class Gemini:
    dialect = dialects.GEMINI
    finishes = {"whole": "STOP", "called": "STOP"}

    def __init__(self, base, key):
        options = genai.types.HttpOptions(base_url=f"http://{base}", timeout=1000 * SECONDS)
        self.client = genai.Client(api_key=key, vertexai=False, http_options=options)

    def send(self, job):
        try:
            return self.streamed(job) if job.get("stream") else self.plain(job)
        except genai_errors.APIError as error:
            told = error.details.get("error", {}) if isinstance(error.details, dict) else {}
            return failed(error, error.code, dialects.error_code(dialects.GEMINI, told))

    def arguments(self, job):
        parts = [{"text": job["text"]}]
        if job.get("image"):
            parts.append({"inline_data": {"mime_type": "image/png", "data": PNG}})
        contents = [{"role": "user", "parts": parts}]
        if job.get("tool_result"):
            call = {"name": TOOL["name"], "args": CALLED}
            result = {"name": TOOL["name"], "response": json.loads(RESULT)}
            contents += [
                {"role": "model", "parts": [{"function_call": call}]},
                {"role": "user", "parts": [{"function_response": result}]},
            ]
        config = {"http_options": {"headers": job["headers"]}}
        if job.get("tools") or job.get("tool_result"):
            declared = {"name": TOOL["name"], "parameters_json_schema": TOOL["parameters"]}
            config["tools"] = [{"function_declarations": [declared]}]
        if job.get("schema"):
            config |= {"response_mime_type": "application/json", "response_json_schema": SCHEMA}
        return {"model": job["model"], "contents": contents, "config": config}

    def add(self, said, answer):
        candidate = (answer.candidates or [None])[0]
        for part in (candidate and candidate.content and candidate.content.parts) or []:
            if part.function_call:
                said["calls"].append([part.function_call.name, part.function_call.args])
            elif part.text and not part.thought:
                said["text"] += part.text
                said["deltas"] += 1
        if candidate and candidate.finish_reason:
            said["finish"] = candidate.finish_reason.value
        spent = answer.usage_metadata
        said["usage"] = usage(spent, "prompt_token_count", "candidates_token_count") or said["usage"]

    def plain(self, job):
        said = reply()
        self.add(said, self.client.models.generate_content(**self.arguments(job)))
        return said

    def streamed(self, job):
        said = reply()
        stream = self.client.models.generate_content_stream(**self.arguments(job))
        for chunk in stream:
            self.add(said, chunk)
            if said["deltas"] == job.get("leave_after"):
                stream.close()
                break
        return said


class LangChain:
    """What both of LangChain's clients share: messages, tools and answers have one form there."""

    def model(self, job):
        model = self.make(job["model"])
        if job.get("tools") or job.get("tool_result"):
            tool = {"title": TOOL["name"], "description": TOOL["description"], **TOOL["parameters"]}
            return model.bind_tools([tool])
        return model

    def messages(self, job):
        content = job["text"]
        if job.get("image"):
            picture = {"type": "image", "base64": PNG_BASE64, "mime_type": "image/png"}
            content = [{"type": "text", "text": content}, picture]
        messages = [HumanMessage(content)]
        if job.get("tool_result"):
            call = {"id": "call_1", "name": TOOL["name"], "args": CALLED}
            messages += [AIMessage("", tool_calls=[call]), ToolMessage(RESULT, tool_call_id="call_1")]
        return messages

    def send(self, job):
        try:
            if job.get("schema"):
                shape = {"title": "trip", "description": "A trip.", **SCHEMA}
                model = self.make(job["model"]).with_structured_output(shape, method="json_schema")
                read = model.invoke(self.messages(job), **self.more(job))
                return reply(json.dumps(read), finish=self.finishes["whole"])
            if job.get("stream"):
                return self.streamed(job)
            return self.read(self.model(job).invoke(self.messages(job), **self.more(job)))
        except (openai.APIError, anthropic.APIError) as error:
            code = error.code if isinstance(error, openai.APIError) else None
            return failed(error, getattr(error, "status_code", None), code)

    def more(self, job):
        return {"extra_headers": job["headers"]}

    def read(self, message):
        said = reply(message.text, calls=[[call["name"], call["args"]] for call in message.tool_calls])
        told = message.response_metadata
        said["finish"] = told.get("finish_reason") or told.get("stop_reason")
        spent = message.usage_metadata
        said["usage"] = spent and [spent["input_tokens"], spent["output_tokens"]]
        return said

    def streamed(self, job):
        whole, deltas = None, 0
        stream = self.model(job).stream(self.messages(job), **self.more(job))
        for chunk in stream:
            whole = chunk if whole is None else whole + chunk
            deltas += bool(chunk.text)
            if deltas == job.get("leave_after"):
                stream.close()
                break
        return {**self.read(whole), "deltas": deltas}


class LangChainOpenAI(LangChain):
    dialect = dialects.CHAT
    finishes = OpenAIChat.finishes

    def __init__(self, base, key):
        self.make = lambda model: ChatOpenAI(
            model=model, base_url=f"http://{base}/v1", api_key=key, max_retries=0, timeout=SECONDS
        )


class LangChainAnthropic(LangChain):
    dialect = dialects.MESSAGES
    finishes = Anthropic.finishes

    def __init__(self, base, key):
        self.make = lambda model: ChatAnthropic(
            model=model, base_url=f"http://{base}", api_key=key, max_retries=0, timeout=SECONDS, max_tokens=200
        )


class Worker:
    """A library in a process of its own: a job as a line of JSON in, the reply as a line out."""

    command = []

    def __init__(self, base, key):
        shared = {"tool": TOOL, "schema": SCHEMA, "image": PNG_BASE64, "called": CALLED, "result": RESULT}
        self.child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "BASE": f"http://{base}", "API_KEY": key, "SHARED": json.dumps(shared)},
        )
        self.turn = threading.Lock()

    def send(self, job):
        with self.turn:
            self.child.stdin.write(json.dumps({"client": self.client, **job}) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        assert line, f"{self.command} ended"
        return reply(**{key: value for key, value in json.loads(line).items() if value is not None})

    def stop(self):
        self.child.stdin.close()
        self.child.wait(10)


class Node(Worker):
    command = ["node", str(TESTS / "node/sdks.mjs")]


class NodeOpenAI(Node):
    client = "openai"
    dialect = dialects.CHAT
    finishes = OpenAIChat.finishes


class VercelOpenAIChat(Node):
    client = "ai-openai-chat"
    dialect = dialects.CHAT
    finishes = {"whole": "stop", "called": "tool-calls"}


class VercelOpenAIResponses(VercelOpenAIChat):
    client = "ai-openai-responses"
    dialect = dialects.RESPONSES


class VercelAnthropic(VercelOpenAIChat):
    client = "ai-anthropic"
    dialect = dialects.MESSAGES


class VercelGoogle(VercelOpenAIChat):
    client = "ai-google"
    dialect = dialects.GEMINI


class LlamaIndex(Worker):
    """LlamaIndex holds to an older openai-python than the rest, so it has an environment of its own."""

    command = [str(ROOT / "target/tests/venv-llama-index/bin/python"), str(TESTS / "llama/client.py")]
    client = "llama-index"
    dialect = dialects.CHAT
    finishes = OpenAIChat.finishes


SDKS = {
    "openai-chat": OpenAIChat,
    "openai-responses": OpenAIResponses,
    "anthropic": Anthropic,
    "gemini": Gemini,
    "langchain-openai": LangChainOpenAI,
    "langchain-anthropic": LangChainAnthropic,
    "llama-index": LlamaIndex,
    "node-openai": NodeOpenAI,
    "vercel-openai-chat": VercelOpenAIChat,
    "vercel-openai-responses": VercelOpenAIResponses,
    "vercel-anthropic": VercelAnthropic,
    "vercel-google": VercelGoogle,
}
