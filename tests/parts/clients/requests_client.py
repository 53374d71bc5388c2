"""requests: requests_client.py ORIGIN UNLISTED"""

import sys

import requests

origin, unlisted = sys.argv[1:]
with requests.Session() as session:
    answer = session.get(f"{origin}/hello", timeout=20)
    print("GET", answer.status_code, answer.text)
    answer = session.post(f"{origin}/files", data="hello", timeout=20)
    print("POST", answer.status_code, answer.text)
    with session.get(f"{origin}/events", stream=True, timeout=20) as answer:
        print("STREAM", sum(line.startswith(b"data: ") for line in answer.iter_lines()))
    answer = session.post(f"{origin}/readonly", data="hello", timeout=20)
    print("DENIED", answer.status_code, answer.json()["reason"])
    try:
        session.get(unlisted, timeout=20)
        print("UNLISTED reached")
    except requests.exceptions.ConnectionError:
        print("UNLISTED refused")
