"""A store that fails before it has sent much, on real servers: never worse than without wsgifile.

The server may still send a 500 if the first read raises an error. And a client must never take
a part for the whole.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import launch
import pytest
import stores
from presigned import BUCKET, client
from stores import Counter

pytest.importorskip("h11")
pytest.importorskip("boto3")
pytest.importorskip("moto")

from client import Answer, Client
from ports import free_port, running

DATA = random.Random(22).randbytes(5 * 2**20 + 17)
APP = """
import sys
sys.path[:0] = {path!r}
import presigned
import urllib.request
from wsgifile import FileWrapperMiddleware

def open_file(library):
    if library == "boto3":
        return s3.get_object(Bucket=presigned.BUCKET, Key="film")["Body"]
    if library == "s3fs":
        return files.open(presigned.BUCKET + "/film")
    if library == "urllib":
        return urllib.request.urlopen("http://127.0.0.1:{web}/film")
    return pool.request("GET", "http://127.0.0.1:{web}/film", preload_content=False)

def bare(environ, start_response):
    _, _, how, library = environ["PATH_INFO"].split("/")
    file = open_file(library)
    start_response("200 OK", [("Content-Type", "video/mp4")])
    wrapper = environ.get("wsgi.file_wrapper", lambda it: iter(lambda: it.read(65536), b""))
    return file if how == "returned" else wrapper(file)

ours = FileWrapperMiddleware(bare)

def app(environ, start_response):
    global s3, files, pool
    if "s3" not in globals():  # A server may fork before.
        import s3fs, urllib3
        s3 = presigned.client({s3})
        pool = urllib3.PoolManager(retries=False)
        files = s3fs.S3FileSystem(
            key="test", secret="test", endpoint_url="http://127.0.0.1:{s3}",
            client_kwargs={{"region_name": "us-east-1"}},
        )
        files.retries = 1
    side = bare if environ["PATH_INFO"].startswith("/bare/") else ours
    return side(environ, start_response)
"""
SERVERS = ["waitress", "gunicorn", "gunicorn_gthread", "wsgiref"]
#: Each case is asked for in both ways.
HOW = ["returned", "wrapped"]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Counter]]:
    """What each library reads from."""
    pytest.importorskip("s3fs")
    log = tmp_path_factory.mktemp("store") / "log"
    with stores.store(log) as s3, stores.origin(DATA) as web:
        boto3_client = client(s3.port)
        boto3_client.put_object(Bucket=BUCKET, Key="film", Body=DATA)
        boto3_client.close()
        yield {"boto3": s3, "s3fs": s3, "urllib": web, "urllib3": web}


@pytest.fixture(scope="module", params=SERVERS)
def port(
    request: pytest.FixtureRequest,
    upstream: dict[str, Counter],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    if not launch.SERVERS[request.param].installed():
        pytest.skip(f"{request.param} is not installed")
    directory = tmp_path_factory.mktemp("failing")
    path, own = directory / "failing.py", free_port()
    tests = [str(Path(__file__).parent)]
    path.write_text(APP.format(path=tests, web=upstream["urllib"].port, s3=upstream["s3fs"].port))
    with running(launch.command(request.param, str(path), own), own, directory / "log"):
        yield own


def ask(port: int, target: str) -> Answer:
    with Client(port) as client:
        return client.get(target)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("library", ["boto3", "s3fs", "urllib", "urllib3"])
@pytest.mark.parametrize("cut", [0, 1000, 300_000])
def test_cut_off(
    port: int, upstream: dict[str, Counter], library: str, how: str, cut: int
) -> None:
    """A 500 if there is one without us, and if not, the client can tell."""
    counter = upstream[library]
    counter.forget()
    assert ask(port, f"/ours/{how}/{library}").body == DATA
    counter.cut = cut
    bare = ask(port, f"/bare/{how}/{library}")
    ours = ask(port, f"/ours/{how}/{library}")
    if bare.status == 500 or not cut:
        assert (ours.status, ours.short) == (500, False)
    elif ours.status != 500:
        assert ours.short
        assert len(bare.body) <= len(ours.body) + 65536
        assert DATA.startswith(ours.body)
