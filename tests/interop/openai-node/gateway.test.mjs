// The official OpenAI client for Node, unmodified, at the gateway.  Everything comes from the environment: CACTUS_URL (the
// gateway's, with /v1), CACTUS_SLOW_URL (one whose tokens take long), CACTUS_EMBED_URL, CACTUS_KEY (for all), CACTUS_MODULES, CACTUS_TEXT.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

const require = createRequire(`${process.env.CACTUS_MODULES}/`);
const { OpenAI } = require("openai");
const { CACTUS_URL: url, CACTUS_SLOW_URL: slow, CACTUS_KEY: key, CACTUS_TEXT: text } = process.env;
const at = (baseURL, more = {}) => new OpenAI({ baseURL, apiKey: key, maxRetries: 0, ...more });
const openai = at(url);
const hello = { model: "fake", messages: [{ role: "user", content: "What is a router?" }] };

test("a chat has its text, its usage and its price", async () => {
  const { data, response } = await openai.chat.completions.create(hello).withResponse();
  assert.equal(data.choices[0].message.content, text);
  assert.equal(data.choices[0].finish_reason, "stop");
  assert.equal(data.usage.completion_tokens, 16);
  assert.equal(data._request_id, data.cactus.task_id);
  assert.equal(Number(response.headers.get("x-cactus-price-octas")), data.cactus.price_octas);
});

test("a stream has the same text and its usage at the end", async () => {
  const stream = await openai.chat.completions.create({ ...hello, stream: true, stream_options: { include_usage: true } });
  let said = "";
  let usage;
  for await (const chunk of stream) {
    said += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(said, text);
  assert.equal(usage.total_tokens, 20);
});

test("the streaming helper puts the answer together", async () => {
  const helper = openai.chat.completions.stream(hello);
  assert.equal(await helper.finalContent(), text);
});

test("a text is continued", async () => {
  const answer = await openai.completions.create({ model: "fake", prompt: "go", max_tokens: 3 });
  assert.equal(answer.choices[0].text, "A cactus keeps");
});

test("log-probabilities are parsed whole, streamed and put together", async () => {
  const asked = { ...hello, logprobs: true, top_logprobs: 3 };
  const told = (await openai.chat.completions.create(asked)).choices[0].logprobs.content;
  assert.equal(told.map((each) => each.token).join(""), text);
  assert.equal(Buffer.from(told.flatMap((each) => each.bytes)).toString(), text);
  assert.deepEqual(told.map((each) => each.top_logprobs.length), told.map(() => 3));
  const streamed = [];
  for await (const chunk of await openai.chat.completions.create({ ...asked, stream: true })) {
    streamed.push(...(chunk.choices[0]?.logprobs?.content ?? []));
  }
  assert.deepEqual(streamed, told);
  const helped = await openai.chat.completions.stream(asked).finalChatCompletion();
  assert.deepEqual(helped.choices[0].logprobs.content, told);
  const plain = await openai.completions.create({ model: "fake", prompt: "go", max_tokens: 3, logprobs: 2 });
  assert.deepEqual(plain.choices[0].logprobs.tokens, ["A", " cactus", " keeps"]);
  await assert.rejects(openai.chat.completions.create({ ...asked, top_logprobs: 21 }), OpenAI.BadRequestError);
});

test("the models are listed and one is looked up", async () => {
  const names = [];
  for await (const model of openai.models.list()) names.push(model.id);
  assert.deepEqual(names, ["fake"]);
  assert.equal((await openai.models.retrieve("fake")).owned_by, "cactus-mesh");
});

test("what the mesh cannot do is a bad request that names it", async () => {
  const tools = [{ type: "function", function: { name: "look", parameters: { type: "object", properties: {} } } }];
  for (const [param, changes] of Object.entries({ tools: { tools }, n: { n: 2 }, seed: { seed: 1 } })) {
    await assert.rejects(openai.chat.completions.create({ ...hello, ...changes }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.code, "gateway.unsupported");
      assert.equal(error.param, param);
      return true;
    });
  }
});

test("embeddings come as lists of numbers", async () => {
  const answer = await at(process.env.CACTUS_EMBED_URL).embeddings.create({ model: "embedder", input: ["one", "two"] });
  assert.deepEqual(answer.data.map((each) => each.embedding.map(Math.fround)), [[Math.fround(0.6), Math.fround(-0.8)], [1, 0]]);
  await assert.rejects(openai.embeddings.create({ model: "fake", input: "x" }), OpenAI.NotFoundError);
});

test("errors are of the client's classes", async () => {
  await assert.rejects(openai.chat.completions.create({ ...hello, model: "gpt-4o" }), OpenAI.NotFoundError);
  await assert.rejects(at(url, { apiKey: "sk-wrong" }).chat.completions.create(hello), OpenAI.AuthenticationError);
  await assert.rejects(openai.chat.completions.create({ ...hello, temperature: 9 }), OpenAI.BadRequestError);
  await assert.rejects(openai.chat.completions.create({ ...hello, max_price: 1 }), (error) => {
    assert.equal(error.status, 402);
    assert.equal(error.code, "task.price_too_low");
    return true;
  });
});

test("an aborted stream ends", async () => {
  const stream = await at(slow).chat.completions.create({ ...hello, stream: true });
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    stream.controller.abort();
  }
});

test("the client's timeout ends the request", async () => {
  await assert.rejects(at(slow, { timeout: 300 }).chat.completions.create(hello), OpenAI.APIConnectionTimeoutError);
});
