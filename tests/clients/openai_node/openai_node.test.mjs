// openai for node, unmodified.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';

import OpenAI from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const SAMPLES = new URL('shared/headmap/demo/samples/', `file://${process.cwd()}/`);
const PICTURE = `data:image/png;base64,${fs.readFileSync(new URL('0000.png', SAMPLES)).toString('base64')}`;
const QUESTION = 'What is the value of BXP?';
const PAGE = JSON.parse(fs.readFileSync(new URL('pages.jsonl', SAMPLES), 'utf8').split('\n')[0]);
const ANSWER = PAGE.questions.find((one) => one.question.includes('BXP')).answer;

const model = 'headmap/demo-ocr';
const client = new OpenAI({
  baseURL: `${process.env.HEADMAP_CLIENT_URL}/v1`,
  apiKey: process.env.HEADMAP_CLIENT_KEY,
  maxRetries: 0,
});
const Reading = z.object({ key: z.literal('BXP'), legible: z.boolean() });
const messages = [
  {
    role: 'user',
    content: [
      { type: 'image_url', image_url: { url: PICTURE } },
      { type: 'text', text: QUESTION },
    ],
  },
];
const input = [
  {
    role: 'user',
    content: [
      { type: 'input_image', image_url: PICTURE, detail: 'auto' },
      { type: 'input_text', text: QUESTION },
    ],
  },
];

test('models are listed', async () => {
  const found = [];
  for await (const one of client.models.list()) found.push(one.id);
  assert.deepEqual(found, [model, `${model}@documents`]);
  assert.equal((await client.models.retrieve(model)).id, model);
});

test('a question is answered, and a stream says the same', async () => {
  const whole = await client.chat.completions.create({ model, messages });
  assert.equal(whole.choices[0].message.content, ANSWER);
  let text = '';
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? '';
  }
  assert.equal(text, ANSWER);
});

test('an answer is parsed', async () => {
  const response_format = zodResponseFormat(Reading, 'reading');
  const found = await client.chat.completions.parse({ model, messages, response_format });
  assert.equal(found.choices[0].message.parsed.key, 'BXP');
});

test('a tool is called, and its answer goes back', async () => {
  const places = [];
  const parameters = { type: 'object', properties: { place: { enum: ['top'] } }, required: ['place'] };
  const look = { name: 'look', parameters, parse: JSON.parse, function: ({ place }) => places.push(place) && 'seen' };
  const tools = [{ type: 'function', function: look }];
  const tool_choice = { type: 'function', function: { name: 'look' } };
  const run = client.chat.completions.runTools({ model, messages, tools, tool_choice, max_tokens: 64 });
  await run.done();
  assert.deepEqual(places, ['top']);
});

test('responses answer, whole, parsed and streamed', async () => {
  assert.equal((await client.responses.create({ model, input })).output_text, ANSWER);
  const text = { format: zodTextFormat(Reading, 'reading') };
  assert.equal((await client.responses.parse({ model, input, text })).output_parsed.key, 'BXP');
  const stream = client.responses.stream({ model, input });
  const kinds = [];
  for await (const event of stream) kinds.push(event.type);
  assert.equal(kinds.at(-1), 'response.completed');
  assert.equal((await stream.finalResponse()).output_text, ANSWER);
});

test('errors have their own classes', async () => {
  await assert.rejects(client.chat.completions.create({ model: 'nobody/nothing', messages }), OpenAI.NotFoundError);
  const messages_ = [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } }] }];
  await assert.rejects(client.chat.completions.create({ model, messages: messages_ }), OpenAI.BadRequestError);
});
