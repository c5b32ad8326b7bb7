// Vercel's AI SDK: over /v1/responses, which its OpenAI provider takes by default, and over /v1/chat/completions.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';

import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, streamObject, streamText, tool } from 'ai';
import { z } from 'zod';

const SAMPLES = new URL('shared/headmap/demo/samples/', `file://${process.cwd()}/`);
const image = fs.readFileSync(new URL('0000.png', SAMPLES));
const PAGE = JSON.parse(fs.readFileSync(new URL('pages.jsonl', SAMPLES), 'utf8').split('\n')[0]);
const ANSWER = PAGE.questions.find((one) => one.question.includes('BXP')).answer;

const given = { baseURL: `${process.env.HEADMAP_CLIENT_URL}/v1`, apiKey: process.env.HEADMAP_CLIENT_KEY };
const name = 'headmap/demo-ocr';
const openai = createOpenAI(given);
const compatible = createOpenAICompatible({ ...given, name: 'headmap' });
const complete = createOpenAICompatible({ ...given, name: 'headmap', includeUsage: true, supportsStructuredOutputs: true });
const SERVED = {
  'OpenAI by default': openai(name),
  'OpenAI by chat': openai.chat(name),
  'compatible by default': compatible(name),
  'compatible with usage and schemas': complete(name),
};

const schema = z.object({ key: z.literal('BXP'), legible: z.boolean() });
const text = { type: 'text', text: 'What is the value of BXP?' };
const messages = [{ role: 'user', content: [{ type: 'image', image }, text] }];
const look = { description: 'Look at a place of the page.', inputSchema: z.object({ place: z.enum(['top']) }) };

for (const [title, model] of Object.entries(SERVED)) {
  const asked = { model, messages, maxRetries: 0 };
  describe(title, () => {
    test('a question is answered', async () => {
      const found = await generateText(asked);
      assert.equal(found.text, ANSWER);
      assert.equal(found.finishReason, 'stop');
      assert.ok(found.usage.outputTokens > 0);
    });

    test('a stream says the same', async () => {
      const stream = streamText(asked);
      assert.equal(await stream.text, ANSWER);
    });

    test('settings go along', async () => {
      const settings = { system: 'You read pages.', temperature: 0, topP: 1, maxOutputTokens: 4 };
      assert.equal(typeof (await generateText({ ...asked, ...settings })).text, 'string');
    });

    test('a required tool is called, and its answer goes back', async () => {
      const tools = { look: tool(look) };
      const { toolCalls, response } = await generateText({ ...asked, tools, toolChoice: 'required' });
      assert.deepEqual(toolCalls.map((call) => call.input), [{ place: 'top' }]);
      const result = {
        type: 'tool-result',
        toolCallId: toolCalls[0].toolCallId,
        toolName: 'look',
        output: { type: 'text', value: 'seen' },
      };
      const turns = [...messages, ...response.messages, { role: 'tool', content: [result] }];
      const found = await generateText({ ...asked, tools, messages: turns, maxOutputTokens: 16 });
      assert.ok(['stop', 'length'].includes(found.finishReason));
    });

    test('a required tool is called in a stream', async () => {
      const stream = streamText({ ...asked, tools: { look: tool(look) }, toolChoice: 'required' });
      assert.deepEqual((await stream.toolCalls).map((call) => call.input), [{ place: 'top' }]);
    });

    // Without schemas the compatible provider asks for any JSON, which a small model does not fill in
    if (title !== 'compatible by default') {
      test('an object is made', async () => {
        assert.equal((await generateObject({ ...asked, schema })).object.key, 'BXP');
        const stream = streamObject({ ...asked, schema });
        for await (const _ of stream.partialObjectStream);
        assert.equal((await stream.object).key, 'BXP');
      });
    }
  });
}

test('text goes on', async () => {
  const found = await generateText({ model: compatible.completionModel(name), prompt: 'BXP:', maxRetries: 0 });
  assert.equal(typeof found.text, 'string');
});
