"""urllib3 alone, which looks at no proxy variable: urllib3_client.py ORIGIN UNLISTED"""

import sys

import urllib3

origin, unlisted = sys.argv[1:]
with urllib3.PoolManager(timeout=20, retries=False) as pool:
    answer = pool.request("GET", f"{origin}/hello")
    print("GET", answer.status, answer.data.decode())
    answer = pool.request("POST", f"{origin}/files", body="hello")
    print("POST", answer.status, answer.data.decode())
    answer = pool.request("GET", f"{origin}/events", preload_content=False)
    print("STREAM", sum(line.startswith(b"data: ") for line in answer))
    answer.release_conn()
    answer = pool.request("POST", f"{origin}/readonly", body="hello")
    print("DENIED", answer.status, answer.json()["reason"])
    try:
        pool.request("GET", unlisted)
        print("UNLISTED reached")
    except urllib3.exceptions.HTTPError:
        print("UNLISTED refused")
