// The Node clients as a worker: a job as a line of JSON in, the reply as a line out (see `Worker` in ../sdks.py).
// Only the base URL and the key differ from a program that talks to the provider itself.
import { createInterface } from "node:readline";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, generateText, jsonSchema, Output, streamText, tool } from "ai";
import OpenAI from "openai";

globalThis.AI_SDK_LOG_WARNINGS = false;
const shared = JSON.parse(process.env.SHARED);
const key = process.env.API_KEY;
const v1 = `${process.env.BASE}/v1`;
const look_up = { description: shared.tool.description, inputSchema: jsonSchema(shared.tool.parameters) };

const models = {
  "ai-openai-chat": (name, headers) => createOpenAI({ baseURL: v1, apiKey: key, headers }).chat(name),
  "ai-openai-responses": (name, headers) => createOpenAI({ baseURL: v1, apiKey: key, headers }).responses(name),
  "ai-anthropic": (name, headers) => createAnthropic({ baseURL: v1, apiKey: key, headers })(name),
  "ai-google": (name, headers) =>
    createGoogleGenerativeAI({ baseURL: `${process.env.BASE}/v1beta`, apiKey: key, headers })(name),
};

function vercelMessages(job) {
  const content = [{ type: "text", text: job.text }];
  if (job.image) content.push({ type: "image", image: shared.image, mediaType: "image/png" });
  const messages = [{ role: "user", content }];
  if (job.tool_result) {
    const call = { toolCallId: "call_1", toolName: shared.tool.name };
    const output = { type: "json", value: JSON.parse(shared.result) };
    messages.push({ role: "assistant", content: [{ type: "tool-call", ...call, input: shared.called }] });
    messages.push({ role: "tool", content: [{ type: "tool-result", ...call, output }] });
  }
  return messages;
}

async function vercel(job) {
  const leaving = new AbortController();
  const request = {
    model: models[job.client](job.model, job.headers),
    messages: vercelMessages(job),
    maxRetries: 0,
    abortSignal: leaving.signal,
    onError: () => {},
  };
  if (job.tools || job.tool_result) request.tools = { [shared.tool.name]: tool(look_up) };
  if (job.schema) request.output = Output.object({ schema: jsonSchema(shared.schema) });
  // Left to itself the library goes by the model's name whether it may ask for a schema.
  request.providerOptions = { anthropic: { structuredOutputMode: "outputFormat" } };
  if (job.stream) return vercelStream(job, streamText(request), leaving);
  const answer = await generateText(request);
  return {
    text: job.schema ? JSON.stringify(answer.output) : answer.text,
    calls: answer.toolCalls.map((call) => [call.toolName, call.input]),
    finish: answer.finishReason,
    usage: [answer.usage.inputTokens, answer.usage.outputTokens],
  };
}

async function vercelStream(job, answer, leaving) {
  const said = { text: "", deltas: 0, finish: null, calls: [], usage: null };
  for await (const part of answer.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "tool-call") said.calls.push([part.toolName, part.input]);
    if (part.type === "text-delta" && part.text) {
      said.text += part.text;
      said.deltas += 1;
    }
    if (part.type === "finish") {
      said.finish = part.finishReason;
      said.usage = [part.totalUsage.inputTokens, part.totalUsage.outputTokens];
    }
    if (said.deltas === job.leave_after) {
      leaving.abort();
      return said;
    }
  }
  return said;
}

function openaiRequest(job) {
  let content = job.text;
  if (job.image) {
    const url = `data:image/png;base64,${shared.image}`;
    content = [{ type: "text", text: job.text }, { type: "image_url", image_url: { url } }];
  }
  const messages = [{ role: "user", content }];
  if (job.tool_result) {
    const called = { name: shared.tool.name, arguments: JSON.stringify(shared.called) };
    const call = { id: "call_1", type: "function", function: called };
    messages.push({ role: "assistant", content: null, tool_calls: [call] });
    messages.push({ role: "tool", tool_call_id: "call_1", content: shared.result });
  }
  const request = { model: job.model, messages };
  if (job.tools || job.tool_result) request.tools = [{ type: "function", function: shared.tool }];
  const shape = { name: "trip", schema: shared.schema };
  if (job.schema) request.response_format = { type: "json_schema", json_schema: shape };
  return request;
}

async function openai(job) {
  const client = new OpenAI({ baseURL: v1, apiKey: key, maxRetries: 0, timeout: 10_000, defaultHeaders: job.headers });
  if (job.stream) return openaiStream(job, client);
  const answer = await client.chat.completions.create(openaiRequest(job));
  const choice = answer.choices[0];
  return {
    text: choice.message.content ?? "",
    calls: (choice.message.tool_calls ?? []).map((call) => [call.function.name, JSON.parse(call.function.arguments)]),
    finish: choice.finish_reason,
    usage: [answer.usage.prompt_tokens, answer.usage.completion_tokens],
  };
}

async function openaiStream(job, client) {
  const said = { text: "", deltas: 0, finish: null, usage: null };
  const calls = [];
  const more = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create({ ...openaiRequest(job), ...more })) {
    if (chunk.usage) said.usage = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens];
    for (const choice of chunk.choices) {
      said.finish = choice.finish_reason ?? said.finish;
      for (const call of choice.delta.tool_calls ?? []) {
        calls[call.index] ??= ["", ""];
        calls[call.index][0] += call.function.name ?? "";
        calls[call.index][1] += call.function.arguments ?? "";
      }
      if (choice.delta.content) {
        said.text += choice.delta.content;
        said.deltas += 1;
      }
    }
    if (said.deltas === job.leave_after) break;
  }
  return { ...said, calls: calls.map(([name, text]) => [name, JSON.parse(text)]) };
}

function failure(error) {
  const told = APICallError.isInstance(error) ? error.data?.error : error;
  const code = told?.code ?? null;
  return {
    kind: error?.constructor?.name ?? typeof error,
    status: error?.statusCode ?? error?.status ?? null,
    code: typeof code === "string" ? code : null,
    message: error?.message ?? JSON.stringify(error),
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  let said;
  try {
    said = await (job.client === "openai" ? openai(job) : vercel(job));
  } catch (error) {
    said = { error: failure(error) };
  }
  console.log(JSON.stringify(said));
}
