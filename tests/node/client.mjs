// One scenario of the official Node client: `node client.mjs SCENARIO`, the result as JSON on stdout.
// Only the base URL and the key differ from a program that talks to the provider itself.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.BASE_URL,
  apiKey: process.env.API_KEY,
  maxRetries: 0,
  defaultHeaders: process.env.X_MOCK ? { "x-mock": process.env.X_MOCK } : {},
});
const question = { model: "scrubbed", messages: [{ role: "user", content: process.env.QUESTION ?? "hello there" }] };
const tools = [{ type: "function", function: { name: "look_up", parameters: { type: "object", properties: {} } } }];

const scenarios = {
  async chat() {
    const answer = await client.chat.completions.create(question);
    return { text: answer.choices[0].message.content, model: answer.model };
  },
  async stream() {
    const deltas = [];
    let finish = null;
    for await (const chunk of await client.chat.completions.create({ ...question, stream: true })) {
      deltas.push(chunk.choices[0]?.delta?.content ?? "");
      finish = chunk.choices[0]?.finish_reason ?? finish;
    }
    return { text: deltas.join(""), deltas: deltas.length, finish };
  },
  async tools() {
    const answer = await client.chat.completions.create({ ...question, tools });
    const call = answer.choices[0].message.tool_calls[0];
    return { name: call.function.name, arguments: call.function.arguments };
  },
  async refused() {
    try {
      await client.chat.completions.create(question);
    } catch (error) {
      return { kind: error.constructor.name, isAuthentication: error instanceof OpenAI.AuthenticationError, status: error.status, code: error.code };
    }
    return { kind: "no error" };
  },
};

console.log(JSON.stringify(await scenarios[process.argv[2]]()));
