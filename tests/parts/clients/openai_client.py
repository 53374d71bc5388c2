"""The openai SDK, told by its environment where to go and with which key: a completion, whole and streamed."""

import openai

client = openai.OpenAI(timeout=20, max_retries=0)
asked = {"model": "m", "messages": [{"role": "user", "content": "greet"}]}
answer = client.chat.completions.create(**asked)
print("WHOLE", answer.choices[0].message.content)
deltas = [chunk.choices[0].delta.content for chunk in client.chat.completions.create(**asked, stream=True)]
print("STREAM", " ".join(deltas))
