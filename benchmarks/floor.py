"""As little as Python can do: no HTTP to speak of, one socket.sendfile() for a request.

``floor.py DIRECTORY HOST PORT``, until a signal.
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def main(directory: str, host: str, port: int) -> None:
    with socket.create_server((host, port), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection, directory), daemon=True).start()


def answer(connection: socket.socket, directory: str) -> None:
    received = b""
    with connection:
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
                if name == "small":
                    connection.sendall(header(6) + b"small\n")
                    continue
                with open(os.path.join(directory, name), "rb") as file:
                    length = os.fstat(file.fileno()).st_size
                    connection.sendall(header(length), socket.MSG_MORE)
                    connection.sendfile(file)
            except ConnectionError:
                return


def header(length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
