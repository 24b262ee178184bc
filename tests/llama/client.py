"""LlamaIndex as a worker: a job as a line of JSON in, the reply as a line out (see `Worker` in ../sdks.py)."""

import gc
import json
import os
import sys

import openai
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.core.tools.types import ToolMetadata
from llama_index.llms.openai_like import OpenAILike

SHARED = json.loads(os.environ["SHARED"])


class Tool(ToolMetadata):
    """The tool with the schema that every client offers, not one that is read off a function."""

    def get_parameters_dict(self):
        return SHARED["tool"]["parameters"]


def tool():
    described = Tool(name=SHARED["tool"]["name"], description=SHARED["tool"]["description"])
    return FunctionTool(fn=lambda order: order, metadata=described)


def model(job):
    more = {}
    if job.get("schema"):
        shape = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SHARED["schema"]}}
        more = {"additional_kwargs": {"response_format": shape}}
    return OpenAILike(
        model=job["model"],
        api_base=os.environ["BASE"] + "/v1",
        api_key=os.environ["API_KEY"],
        default_headers=job["headers"],
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        timeout=10,
        **more,
    )


def messages(job):
    blocks = [TextBlock(text=job["text"])]
    if job.get("image"):
        blocks.append(ImageBlock(image=SHARED["image"].encode(), image_mimetype="image/png"))
    said = [ChatMessage(role="user", blocks=blocks)]
    if job.get("tool_result"):
        function = {"name": SHARED["tool"]["name"], "arguments": json.dumps(SHARED["called"])}
        call = {"id": "call_1", "type": "function", "function": function}
        said += [
            ChatMessage(role="assistant", content=None, additional_kwargs={"tool_calls": [call]}),
            ChatMessage(role="tool", content=SHARED["result"], additional_kwargs={"tool_call_id": "call_1"}),
        ]
    return said


def read(llm, answer):
    calls = llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
    choices = getattr(answer.raw, "choices", None)
    spent = getattr(answer.raw, "usage", None)
    return {
        "text": answer.message.content or "",
        "calls": [[call.tool_name, call.tool_kwargs] for call in calls],
        "finish": choices[0].finish_reason if choices else None,
        "usage": [spent.prompt_tokens, spent.completion_tokens] if spent else None,
    }


def answer(job):
    llm = model(job)
    offered = bool(job.get("tools") or job.get("tool_result"))
    if not job.get("stream"):
        if offered:
            return read(llm, llm.chat_with_tools([tool()], chat_history=messages(job), allow_parallel_tool_calls=True))
        return read(llm, llm.chat(messages(job)))
    stream = (
        llm.stream_chat_with_tools([tool()], chat_history=messages(job), allow_parallel_tool_calls=True)
        if offered
        else llm.stream_chat(messages(job))
    )
    last, finish, deltas = None, None, 0
    for last in stream:
        deltas += bool(last.delta)
        finish = read(llm, last)["finish"] or finish
        if deltas == job.get("leave_after"):
            # The library leaves its connection to the garbage collector.
            stream.close()
            del stream
            gc.collect()
            break
    return {**read(llm, last), "finish": finish, "deltas": deltas}


for line in sys.stdin:
    job = json.loads(line)
    try:
        said = answer(job)
    except openai.APIError as error:
        status = getattr(error, "status_code", None)
        kind = type(error).__name__
        said = {"error": {"kind": kind, "status": status, "code": error.code, "message": str(error)}}
    print(json.dumps(said), flush=True)
