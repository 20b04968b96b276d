"""Reading an HTTP answer off a socket, for requests that no HTTP library would send."""

import socket


def answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body; a body without a length ends with the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += take(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" not in fields:
        return head, body
    while len(body) < int(fields[b"content-length"]):
        body += take(connection)
    return head, body


def take(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection without an answer")
    return data
