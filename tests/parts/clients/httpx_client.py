"""httpx over HTTP/2: httpx_client.py ORIGIN UNLISTED"""

import sys

import httpx

origin, unlisted = sys.argv[1:]
with httpx.Client(http2=True, timeout=20) as client:
    answer = client.get(f"{origin}/hello")
    print("GET", answer.status_code, answer.text)
    answer = client.post(f"{origin}/files", content="hello")
    print("POST", answer.status_code, answer.text)
    with client.stream("GET", f"{origin}/events") as answer:
        print("STREAM", sum(line.startswith("data: ") for line in answer.iter_lines()))
    answer = client.post(f"{origin}/readonly", content="hello")
    print("DENIED", answer.status_code, answer.json()["reason"])
    try:
        client.get(unlisted)
        print("UNLISTED reached")
    except httpx.TransportError:
        print("UNLISTED refused")
