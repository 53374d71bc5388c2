// Node's own fetch: fetch.mjs ORIGIN UNLISTED
const [origin, unlisted] = process.argv.slice(2);
const call = (url, init) => fetch(url, { signal: AbortSignal.timeout(20_000), ...init });
const post = { method: "POST", body: "hello" };

let answer = await call(`${origin}/hello`);
console.log("GET", answer.status, await answer.text());
answer = await call(`${origin}/files`, post);
console.log("POST", answer.status, await answer.text());

answer = await call(`${origin}/events`);
let events = "";
const decoder = new TextDecoder();
for await (const chunk of answer.body) events += decoder.decode(chunk, { stream: true });
console.log("STREAM", events.match(/^data: /gm).length);
answer = await call(`${origin}/readonly`, post);
console.log("DENIED", answer.status, (await answer.json()).reason);

try {
  await call(unlisted);
  console.log("UNLISTED reached");
} catch {
  console.log("UNLISTED refused");
}
