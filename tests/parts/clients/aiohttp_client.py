"""aiohttp, told to look at the environment: aiohttp_client.py ORIGIN UNLISTED"""

import asyncio
import sys

import aiohttp


async def main(origin, unlisted):
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as session:
        async with session.get(f"{origin}/hello") as answer:
            print("GET", answer.status, await answer.text())
        async with session.post(f"{origin}/files", data="hello") as answer:
            print("POST", answer.status, await answer.text())
        async with session.get(f"{origin}/events") as answer:
            print("STREAM", len([line async for line in answer.content if line.startswith(b"data: ")]))
        async with session.post(f"{origin}/readonly", data="hello") as answer:
            print("DENIED", answer.status, (await answer.json())["reason"])
        try:
            async with session.get(unlisted):
                print("UNLISTED reached")
        except aiohttp.ClientError:
            print("UNLISTED refused")


asyncio.run(main(*sys.argv[1:]))
