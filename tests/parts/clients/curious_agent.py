"""An agent that calls, and then looks at all that it can read: of itself, of its child, and of the sidecar.

usage: curious_agent.py OUT PLACEHOLDER SIDECAR_PID|parent URL...

Its own memory, environment and open files go to OUT. What it could read of others it says as JSON.
"""

import ctypes
import json
import os
import stat
import subprocess
import sys
import urllib.request

LIBC = ctypes.CDLL(None, use_errno=True)


class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def regions(pid):
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps.readlines():
            span, rights, *_ = line.split()
            # The kernel's own pages have no content.
            if rights[0] == "r" and "[v" not in line:
                yield [int(end, 16) for end in span.split("-")]


def memory(pid):
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for start, end in regions(pid):
            memory.seek(start)
            while start < end:
                piece = memory.read(min(1 << 20, end - start))
                if not piece:
                    break
                start += len(piece)
                yield piece


def file(path):
    with open(path, "rb") as content:
        return len(content.read())


def copied(pid):
    """One byte, by a call of the kernel instead of a file."""
    here = ctypes.create_string_buffer(1)
    # Where it is does not matter to one that is not let in.
    try:
        there = next(regions(pid))[0]
    except OSError:
        there = 0x400000
    local = Span(ctypes.cast(here, ctypes.c_void_p).value, 1)
    remote = Span(there, 1)
    count = LIBC.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if count < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return count


def readable(pid):
    """What of another process can be read, and of what no more is said than that it can't."""
    ways = {
        "memory": lambda: sum(len(piece) for piece in memory(pid)),
        "environment": lambda: file(f"/proc/{pid}/environ"),
        "maps": lambda: file(f"/proc/{pid}/maps"),
        "auxiliary vector": lambda: file(f"/proc/{pid}/auxv"),
        "files": lambda: len([os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]),
        "root": lambda: len(os.listdir(f"/proc/{pid}/root/")),
        "copy": lambda: copied(pid),
    }
    found = {}
    for name, way in ways.items():
        try:
            found[name] = way() > 0
        except PermissionError:
            found[name] = False
    return found


def main():
    out, placeholder, sidecar, *urls = sys.argv[1:]
    answers = []
    for url in urls:
        call = urllib.request.Request(url, headers={"Authorization": f"Bearer {placeholder}"})
        with urllib.request.urlopen(call) as answer:
            answers.append((answer.status, answer.headers.as_string(), answer.read().decode()))
    opened = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    with open(out, "wb") as dump:
        for piece in memory("self"):
            dump.write(piece)
        for path in ["/proc/self/environ", "/proc/self/cmdline", *opened]:
            dump.write(path.encode() + b"\n")
            try:
                if stat.S_ISREG(os.stat(path).st_mode):
                    with open(path, "rb") as content:
                        dump.write(content.read())
            except OSError:
                pass
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    # One that answers is loaded whole, so its memory stays as it is.
    child.stdin.write(b"x")
    child.stdin.flush()
    child.stdout.read(1)
    sidecar = os.getppid() if sidecar == "parent" else int(sidecar)
    with open(f"/proc/{sidecar}/limits") as limits:
        (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
    with open(f"/proc/{sidecar}/status") as status:
        (users,) = [line.split()[1:] for line in status if line.startswith("Uid:")]
    found = {"same_user": set(users) == {str(os.getuid())}, "child": readable(child.pid), "sidecar": readable(sidecar), "core": core[4:6]}
    child.kill()
    print(json.dumps({**found, "answers": answers}))


main()
