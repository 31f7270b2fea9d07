"""As little as Python can do: no HTTP to speak of, one socket.sendfile() for a request.

``floor.py DIRECTORY HOST PORT`` or ``floor.py DIRECTORY SOCKET``, until a signal.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any


def main(directory: str, *address: str) -> None:
    host, *port = address
    where: Any = (host, int(*port)) if port else host
    family = socket.AF_INET if port else socket.AF_UNIX
    with socket.create_server(where, family=family, backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection, directory), daemon=True).start()


def answer(connection: socket.socket, directory: str) -> None:
    received = b""
    with connection:
        if connection.family == socket.AF_INET:
            # Else the end of a response may wait for the acknowledgement of its beginning.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while b"\r\n\r\n" not in received:
                more = connection.recv(65536)
                if not more:
                    return
                received += more
            head, _, received = received.partition(b"\r\n\r\n")
            name = os.path.basename(head.split()[1].decode())
            try:
                with open(os.path.join(directory, name), "rb") as file:
                    length = os.fstat(file.fileno()).st_size
                    header = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                    connection.sendall(header.encode(), socket.MSG_MORE)
                    connection.sendfile(file)
            except ConnectionError:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
