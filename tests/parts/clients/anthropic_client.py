"""The anthropic SDK, told by its environment where to go and with which key: a message, whole and streamed."""

import anthropic

client = anthropic.Anthropic(timeout=20, max_retries=0)
asked = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "greet"}]}
answer = client.messages.create(**asked)
print("WHOLE", answer.content[0].text)
with client.messages.stream(**asked) as stream:
    print("STREAM", " ".join(stream.text_stream))
