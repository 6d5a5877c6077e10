"""A DNS server of the tests' own, on UDP and TCP: ``python dns_server.py ADDRESS... -- NAME=ADDRESS[,...]...``.

It says "ready", and then each question in a line: its protocol, type and name. A name that begins with "large" is
answered in full over TCP alone.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import sys

TYPES = {1: "A", 28: "AAAA"}
NXDOMAIN, TRUNCATED = 3, 0x200


def answer(query: bytes, names: dict[str, list[str]], protocol: str) -> bytes:
    """The answer to a query (RFC 1035)."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    (kind,) = struct.unpack_from(">H", query, at + 1)
    name = ".".join(labels).lower()
    print(protocol, TYPES.get(kind, kind), name, flush=True)
    addresses = [ipaddress.ip_address(each) for each in names.get(name, [])]
    fitting = [each.packed for each in addresses if TYPES.get(kind) == ("A" if each.version == 4 else "AAAA")]
    flags = 0x8180 | (0 if name in names else NXDOMAIN)
    if name.startswith("large") and protocol == "udp" and fitting:
        flags, fitting = flags | TRUNCATED, []
    records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(each)) + each for each in fitting)
    return query[:2] + struct.pack(">HHHHH", flags, 1, len(fitting), 0, 0) + query[12 : at + 5] + records


def main() -> None:
    """Serve until killed."""
    split = sys.argv.index("--")
    names = {
        name.lower(): texts.split(",") for name, _, texts in (each.partition("=") for each in sys.argv[split + 1 :])
    }
    kinds = {}
    for address in sys.argv[1:split]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = socket.socket(family, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, 53))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            kinds[sock] = kind
    print("ready", flush=True)
    while True:
        for sock in select.select(list(kinds), [], [])[0]:
            if kinds[sock] == socket.SOCK_DGRAM:
                query, peer = sock.recvfrom(4096)
                sock.sendto(answer(query, names, "udp"), peer)
                continue
            connection, _ = sock.accept()
            with connection:
                file = connection.makefile("rb")
                while length := file.read(2):
                    reply = answer(file.read(int.from_bytes(length, "big")), names, "tcp")
                    connection.sendall(len(reply).to_bytes(2, "big") + reply)


if __name__ == "__main__":
    main()
