// `openai` from npm: a streamed loop that uses a tool. OPENAI_BASE_URL and OPENAI_API_KEY are read by the client itself.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const WEATHER = { Bergen: "rainy", Cairo: "sunny" };
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Look up the weather.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

const task = JSON.parse(readFileSync(process.env.AGL_TASK_FILE, "utf8"));
const client = new OpenAI();
const messages = [{ role: "user", content: `What is the weather in ${task.city}?` }];
let answer = "";
for (let calls = 0; calls < 3; calls++) {
  const stream = client.chat.completions.stream({ model: process.env.AGL_MODEL, messages, tools });
  const { message } = (await stream.finalChatCompletion()).choices[0];
  answer = message.content ?? "";
  if (!message.tool_calls?.length) break;
  messages.push(message);
  for (const call of message.tool_calls) {
    const { city } = JSON.parse(call.function.arguments);
    messages.push({ role: "tool", tool_call_id: call.id, content: WEATHER[city] ?? "unknown" });
  }
}
console.log(JSON.stringify({ reward: answer.includes(WEATHER[task.city]) ? 1 : 0 }));
