// Node's https module: https.mjs ORIGIN UNLISTED
import { request } from "node:https";

const [origin, unlisted] = process.argv.slice(2);

// Resolves with the answer's status and body.
const call = (url, method = "GET", body = undefined) =>
  new Promise((resolve, reject) => {
    const sent = request(url, { method, timeout: 20_000 }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (chunk) => (text += chunk));
      answer.on("end", () => resolve([answer.statusCode, text]));
    });
    sent.on("timeout", () => sent.destroy(new Error("timeout"))).on("error", reject).end(body);
  });

console.log("GET", ...(await call(`${origin}/hello`)));
console.log("POST", ...(await call(`${origin}/files`, "POST", "hello")));
const [, events] = await call(`${origin}/events`);
console.log("STREAM", events.match(/^data: /gm).length);
const [status, refusal] = await call(`${origin}/readonly`, "POST", "hello");
console.log("DENIED", status, JSON.parse(refusal).reason);

try {
  await call(unlisted);
  console.log("UNLISTED reached");
} catch {
  console.log("UNLISTED refused");
}
