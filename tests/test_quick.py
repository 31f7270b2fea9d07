"""The mark ``quick`` keeps its promise."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import quick

pytestmark = pytest.mark.quick


@pytest.mark.skipif(not quick.WATCHED, reason="they are not watched while coverage is measured")
@pytest.mark.parametrize(
    "start",
    [
        lambda: socket.socket(),
        lambda: socket.create_server(("::1", 0), family=socket.AF_INET6),
        lambda: subprocess.run([sys.executable, "-V"]),
        lambda: os.fork(),
        lambda: os.system("true"),
    ],
)
def test_no_network_and_no_process(start: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="a quick test must not"):
        start()


def test_sockets_of_files_are_let() -> None:
    for sock in socket.socketpair():
        sock.close()
