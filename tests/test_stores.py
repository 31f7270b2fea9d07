"""Files in an object store and on a web server: what clients get, and what the store is asked.

The clients are the libraries that people use, each against a real S3 server or HTTP server.
"""

from __future__ import annotations

import gzip
import http.client
import io
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import stores
from ports import serving
from presigned import BUCKET
from presigned import client as client_of
from stores import Counter

from wsgifile import FileReadError, FileWrapperMiddleware
from wsgifile.blocks import DEFAULT_BLOCK_SIZE
from wsgifile.read_ahead import FIRST_OF_STORE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

DATA = random.Random(22).randbytes(5 * 2**20 + 17)
SIZE = len(DATA)
SMALL = DATA[:50_000]
#: Two requests, of which the second one is on its way while the client takes the first.
WHOLE = [f"bytes=0-{FIRST_OF_STORE - 1}", f"bytes={FIRST_OF_STORE}-{SIZE - 1}"]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counter]:
    """An S3 server with a few objects."""
    pytest.importorskip("boto3")
    with stores.store(tmp_path_factory.mktemp("store") / "log") as counter:
        client = boto3_client(counter)
        client.put_object(Bucket=BUCKET, Key="film", Body=DATA)
        client.put_object(Bucket=BUCKET, Key="small", Body=SMALL)
        client.put_object(Bucket=BUCKET, Key="empty", Body=b"")
        client.put_object(Bucket=BUCKET, Key="text", Body=b"one\ntwo\n")
        packed = gzip.compress(SMALL, mtime=0)
        client.put_object(Bucket=BUCKET, Key="packed", Body=packed, ContentEncoding="gzip")
        client.put_object(Bucket=BUCKET, Key="archive", Body=archive())
        yield counter
        client.close()


@pytest.fixture(scope="module")
def web_server() -> Iterator[Counter]:
    """An HTTP server that has DATA everywhere."""
    with stores.origin(DATA) as counter:
        yield counter


@pytest.fixture
def s3(s3_server: Counter) -> Counter:
    """The same, of which nothing has been asked."""
    s3_server.forget()
    return s3_server


@pytest.fixture
def web(web_server: Counter) -> Counter:
    """The same, likewise."""
    web_server.forget()
    return web_server


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("stored", DATA[:300_000])
        members.writestr("packed", DATA[:300_000], zipfile.ZIP_DEFLATED)
    return file.getvalue()


def boto3_client(counter: Counter) -> Any:
    return client_of(counter.port)


@pytest.fixture(scope="module")
def s3fs_files(s3_server: Counter) -> Any:
    s3fs = pytest.importorskip("s3fs")
    files = s3fs.S3FileSystem(
        key="test",
        secret="test",
        endpoint_url=s3_server.url,
        client_kwargs={"region_name": "us-east-1"},
        skip_instance_cache=True,
    )
    files.retries = 1
    return files


@pytest.fixture(scope="module")
def django_storage(s3_server: Counter) -> Any:
    return storage(s3_server)


def storage(s3: Counter, **options: Any) -> Any:
    backend = pytest.importorskip("storages.backends.s3")
    return backend.S3Storage(
        endpoint_url=s3.url,
        access_key="test",
        secret_key="test",
        region_name="us-east-1",
        bucket_name=BUCKET,
        **options,
    )


@pytest.fixture(scope="module", autouse=True)
def django_settings() -> Iterator[None]:
    """Django can be configured once. Other tests of this process may want to do so too."""
    settings = pytest.importorskip("django.conf").settings
    if settings.configured:
        yield
        return
    settings.configure(ROOT_URLCONF="empty", ALLOWED_HOSTS=["*"])
    yield
    settings._wrapped = pytest.importorskip("django.utils.functional").empty


@pytest.fixture
def library(request: pytest.FixtureRequest) -> Iterator[tuple[Counter, Open]]:
    """What opens an object by this library, and the counter of what it asks for."""
    name: str = request.param
    counter = request.getfixturevalue("web" if "http" in name else "s3")
    if name == "s3fs":
        files = request.getfixturevalue("s3fs_files")
        yield counter, lambda key="film": files.open(f"{BUCKET}/{key}")
    elif name == "django-storages":
        yield counter, request.getfixturevalue("django_storage").open
    elif name == "fsspec http":
        pytest.importorskip("aiohttp")
        web = pytest.importorskip("fsspec").filesystem("http")
        yield counter, lambda key="film": web.open(f"{counter.url}/{key}")
    elif name == "smart_open http":
        smart_open = pytest.importorskip("smart_open")
        yield counter, lambda key="film": smart_open.open(f"{counter.url}/{key}", "rb")
    else:
        client = boto3_client(counter)
        yield counter, by_boto3(client) if name == "boto3" else by_smart_open(client)
        client.close()


def by_boto3(client: Any) -> Open:
    return lambda key="film": client.get_object(Bucket=BUCKET, Key=key)["Body"]


def by_smart_open(client: Any) -> Open:
    smart_open = pytest.importorskip("smart_open")
    params = {"client": client}
    return lambda key="film": smart_open.open(
        f"s3://{BUCKET}/{key}", "rb", transport_params=params
    )


LIBRARIES = ["s3fs", "django-storages", "boto3", "smart_open", "fsspec http", "smart_open http"]
#: Those that ask the store for exactly what we read.
EXACT = ["s3fs", "django-storages", "fsspec http"]
#: Those whose files have an ETag of the store.
TAGGED = ["s3fs", "django-storages", "boto3"]


def app_of(make: Callable[[], Any], *fields: tuple[str, str]) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        file = make()
        start_response("200 OK", [("Content-Type", "video/mp4"), *fields])
        return file

    return app


def get(port: int, method: str = "GET", **fields: str) -> Any:
    """The response, with its ``body``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    connection.request(method, "/", headers=headers)
    response: Any = connection.getresponse()
    try:
        response.body = response.read()
    finally:
        connection.close()
    return response


def answer(app: WSGIApplication, method: str = "GET", **fields: str) -> Any:
    with serving(FileWrapperMiddleware(app)) as port:
        return get(port, method, **fields)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition has not come true"
        time.sleep(0.005)


@pytest.mark.parametrize("library", LIBRARIES, indirect=True)
def test_whole(library: tuple[Counter, Open]) -> None:
    """All bytes, with their number, and no byte is asked for twice."""
    counter, open_ = library
    response = answer(app_of(lambda: open_("film")))
    assert response.status == 200
    assert response.body == DATA
    assert response.headers["Content-Length"] == str(SIZE)
    assert response.headers["Accept-Ranges"] == "bytes"
    assert counter.sent == SIZE


@pytest.mark.parametrize("library", EXACT, indirect=True)
def test_whole_in_few_requests(library: tuple[Counter, Open]) -> None:
    counter, open_ = library
    assert answer(app_of(lambda: open_("film"))).body == DATA
    assert counter.ranges == WHOLE
    assert len(counter.asked) == len(WHOLE) + 1


@pytest.mark.parametrize("library", LIBRARIES, indirect=True)
@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-1", 0, 2),
        ("bytes=4000000-4299999", 4_000_000, 4_300_000),
        ("bytes=5242000-", 5_242_000, SIZE),
        ("bytes=-1000", SIZE - 1000, SIZE),
    ],
)
def test_range(
    request: pytest.FixtureRequest,
    library: tuple[Counter, Open],
    wanted: str,
    start: int,
    stop: int,
) -> None:
    counter, open_ = library
    response = answer(app_of(lambda: open_("film")), Range=wanted)
    assert response.status == 206
    assert response.body == DATA[start:stop]
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    name = request.node.callspec.params["library"]
    if name in EXACT:
        assert counter.ranges == [f"bytes={start}-{stop - 1}"]
        assert counter.sent == stop - start
    elif start and name == "smart_open http":
        assert counter.ranges[-1] == f"bytes={start}-"


@pytest.mark.parametrize("library", EXACT, indirect=True)
def test_several_ranges(library: tuple[Counter, Open]) -> None:
    """One request for each, also if the ranges go back."""
    counter, open_ = library
    response = answer(app_of(lambda: open_("film")), Range="bytes=3000000-3000099,10-19")
    assert response.status == 206
    _, first, second = response.body.split(b"\r\n\r\n", 2)
    assert first.startswith(DATA[3_000_000:3_000_100])
    assert second.startswith(DATA[10:20] + b"\r\n--")
    assert counter.ranges == ["bytes=3000000-3000099", "bytes=10-19"]


def test_body_of_boto3_goes_forwards_only(s3: Counter) -> None:
    client = boto3_client(s3)
    app = app_of(lambda: client.get_object(Bucket=BUCKET, Key="film")["Body"])
    forwards = answer(app, Range="bytes=10-19,3000000-3000099")
    assert forwards.status == 206
    assert forwards.body.count(DATA[3_000_000:3_000_100]) == 1
    assert forwards.body.count(DATA[10:20]) == 1
    back = answer(app, Range="bytes=3000000-3000099,10-19")
    assert back.status == 200
    assert back.body == DATA
    client.close()


@pytest.mark.parametrize("library", LIBRARIES, indirect=True)
def test_range_behind_the_end(library: tuple[Counter, Open]) -> None:
    _, open_ = library
    response = answer(app_of(lambda: open_("film")), Range=f"bytes={SIZE}-")
    assert response.status == 416
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize("library", EXACT, indirect=True)
def test_head_reads_nothing(library: tuple[Counter, Open]) -> None:
    counter, open_ = library
    response = answer(app_of(lambda: open_("film")), "HEAD", Range="bytes=0-1")
    assert response.status == 200
    assert response.headers["Content-Length"] == str(SIZE)
    assert [asked.method for asked in counter.asked] == ["HEAD"]


@pytest.mark.parametrize("library", TAGGED, indirect=True)
def test_conditions(s3: Counter, library: tuple[Counter, Open]) -> None:
    """By the ETag that the store has given, and without a byte read."""
    _, open_ = library
    client = boto3_client(s3)
    stored = client.head_object(Bucket=BUCKET, Key="film")
    client.close()
    app = app_of(lambda: open_("film"))
    etag = answer(app, "HEAD").headers["ETag"]
    assert etag == stored["ETag"]
    s3.forget()
    response = answer(app, If_None_Match=etag)
    assert (response.status, response.body) == (304, b"")
    if s3.gets:  # boto3's, which opens the object by GET, and leaves.
        assert s3.sent < SIZE
    assert answer(app, If_Match='"other"').status == 412
    assert answer(app, Range="bytes=0-9", If_Range=etag).body == DATA[:10]
    assert answer(app, Range="bytes=0-9", If_Range='"other"').body == DATA


@pytest.mark.parametrize("library", TAGGED, indirect=True)
def test_date(monkeypatch: pytest.MonkeyPatch, s3: Counter, library: Any) -> None:
    """The store's date goes out if the application says how long it is fresh."""
    client = boto3_client(s3)
    stored = client.head_object(Bucket=BUCKET, Key="film")
    client.close()
    # Within the second in which it was made, an object has no date.
    monkeypatch.setattr("time.time", lambda at=time.time: at() + 2)
    _, open_ = library
    dated = answer(app_of(lambda: open_("film"), ("Cache-Control", "no-cache")), "HEAD")
    assert (
        dated.headers["Last-Modified"]
        == stored["ResponseMetadata"]["HTTPHeaders"]["last-modified"]
    )
    assert "Last-Modified" not in answer(app_of(lambda: open_("film")), "HEAD").headers
    own = answer(app_of(lambda: open_("film"), ("ETag", '"own"')), "HEAD")
    assert own.headers.get_all("ETag") == ['"own"']
    secret = answer(app_of(lambda: open_("film"), ("Cache-Control", "no-store")), "HEAD")
    assert "ETag" not in secret.headers


@pytest.mark.parametrize("library", ["s3fs", "django-storages"], indirect=True)
def test_object_replaced_while_it_is_sent(s3: Counter, library: tuple[Counter, Open]) -> None:
    """No client gets bytes of two versions."""
    _, open_ = library
    client = boto3_client(s3)
    client.put_object(Bucket=BUCKET, Key="changing", Body=DATA)
    file = open_("changing")
    client.put_object(Bucket=BUCKET, Key="changing", Body=DATA[::-1])
    assert answer(app_of(lambda: file)).status == 500
    # Between two ranges, of which each is one request.
    client.put_object(Bucket=BUCKET, Key="changing", Body=DATA)
    body = body_of(app_of(lambda: open_("changing")), "bytes=100000-299999,1000000-1299999")
    taken = b""
    while DATA[299_000:300_000] not in taken:
        taken += next(body)
    client.put_object(Bucket=BUCKET, Key="changing", Body=DATA[::-1])
    client.close()
    refused = pytest.importorskip("botocore.exceptions").ClientError
    with pytest.raises((FileReadError, refused)):
        b"".join(body)
    body.close()


@pytest.mark.parametrize("library", LIBRARIES, indirect=True)
def test_cut_off_by_the_store(library: tuple[Counter, Open]) -> None:
    """The client can tell, unless the library asks again for the rest."""
    counter, open_ = library
    app = app_of(lambda: open_("film"))
    counter.cut = 2_500_000
    with serving(FileWrapperMiddleware(app)) as port:
        try:
            body, whole = get(port).body, True
        except http.client.IncompleteRead as error:
            body, whole = error.partial, False
    assert body == DATA if whole else DATA.startswith(body)


@pytest.mark.parametrize("library", ["s3fs", "django-storages"], indirect=True)
@pytest.mark.parametrize("fields", [{}, {"Range": "bytes=100-199"}])
def test_error_of_the_store_is_a_500(library: tuple[Counter, Open], fields: Any) -> None:
    """As long as nothing has been sent."""
    counter, open_ = library
    file = open_("small")
    counter.fails = 403
    assert answer(app_of(lambda: file), **fields).status == 500
    assert len(counter.gets) == 1


def test_checksum_of_the_store(s3: Counter) -> None:
    """It is compared before the last block leaves."""
    client = boto3_client(s3)
    client.put_object(Bucket=BUCKET, Key="summed", Body=DATA, ChecksumAlgorithm="CRC32")
    body = client.get_object(Bucket=BUCKET, Key="summed", ChecksumMode="ENABLED")["Body"]
    assert type(body).__name__ == "StreamingChecksumBody"
    assert answer(app_of(lambda: body)).body == DATA
    s3.spoil = True
    body = client.get_object(Bucket=BUCKET, Key="summed", ChecksumMode="ENABLED")["Body"]
    with pytest.raises(http.client.IncompleteRead):
        answer(app_of(lambda: body))
    client.close()


def body_of(app: WSGIApplication, wanted: str = "bytes=0-", **options: Any) -> Any:
    return FileWrapperMiddleware(app, **options)(
        {"REQUEST_METHOD": "GET", "HTTP_RANGE": wanted},
        lambda status, headers, exc_info=None: lambda data: None,
    )


def take_one(app: WSGIApplication, **options: Any) -> Any:
    """The body, of which one block was taken."""
    body = body_of(app, **options)
    assert DATA.startswith(next(body))
    return body


@pytest.mark.parametrize("library", EXACT, indirect=True)
def test_next_block_is_on_its_way(library: tuple[Counter, Open]) -> None:
    counter, open_ = library
    body = take_one(app_of(lambda: open_("film")))
    wait_until(lambda: counter.ranges == WHOLE)
    body.close()


@pytest.mark.parametrize("library", EXACT, indirect=True)
def test_read_ahead_can_be_turned_off(
    request: pytest.FixtureRequest, library: tuple[Counter, Open]
) -> None:
    """Then large requests are the best, but none larger than a block of the library."""
    counter, open_ = library
    body = take_one(app_of(lambda: open_("film")), read_ahead=0)
    assert b"".join(body).endswith(DATA[-1000:])
    block = 5 << 20
    if request.node.callspec.params["library"] == "s3fs":
        assert counter.ranges == [f"bytes=0-{SIZE - 1}"]
    else:
        assert counter.ranges == [f"bytes=0-{block - 1}", f"bytes={block}-{SIZE - 1}"]
    body.close()


def test_middleware_in_middleware(s3: Counter, s3fs_files: Any) -> None:
    """The outer one asks for as much at once."""
    inner = FileWrapperMiddleware(app_of(lambda: s3fs_files.open(f"{BUCKET}/film")), read_ahead=0)
    assert answer(inner).body == DATA
    assert s3.ranges == [f"bytes=0-{SIZE - 1}"]


def test_any_size_of_an_object(s3: Counter, s3fs_files: Any) -> None:
    small = answer(app_of(lambda: s3fs_files.open(f"{BUCKET}/small")))
    assert small.body == SMALL
    assert s3.ranges == ["bytes=0-49999"]
    s3.forget()
    empty = answer(app_of(lambda: s3fs_files.open(f"{BUCKET}/empty")))
    assert (empty.status, empty.body, empty.headers["Content-Length"]) == (200, b"", "0")
    assert not s3.gets


def test_begun_file(s3: Counter, s3fs_files: Any) -> None:
    """What the application has read is not sent. The ETag is of the whole object."""

    def begun() -> Any:
        file = s3fs_files.open(f"{BUCKET}/film", block_size=100_000)
        assert file.read(1000) == DATA[:1000]
        return file

    response = answer(app_of(begun))
    assert response.body == DATA[1000:]
    assert "ETag" not in response.headers
    # What the library holds is not asked for again.
    first, second, *_ = s3.ranges
    assert first == "bytes=0-100999"
    assert second is not None
    assert second.startswith("bytes=101000-")
    assert answer(app_of(begun), Range="bytes=5-14").body == DATA[1005:1015]


@pytest.mark.parametrize("cache", ["none", "bytes", "blockcache", "all"])
def test_caches_of_fsspec(s3: Counter, s3fs_files: Any, cache: str) -> None:
    """Those that only read ahead are passed by; others are what somebody has chosen."""
    app = app_of(lambda: s3fs_files.open(f"{BUCKET}/film", cache_type=cache, block_size=1_000_000))
    response = answer(app, Range="bytes=2000000-2000009")
    assert response.body == DATA[2_000_000:2_000_010]
    assert (s3.sent == 10) == (cache in ("none", "bytes"))


def test_small_blocks_of_fsspec(s3: Counter, s3fs_files: Any) -> None:
    """They are for what reads little here and there, not for a whole file."""
    small = answer(app_of(lambda: s3fs_files.open(f"{BUCKET}/small", block_size=100)))
    assert small.body == SMALL
    s3.forget()
    file = s3fs_files.open(f"{BUCKET}/film", block_size=100)
    assert answer(app_of(lambda: file)).body == DATA
    assert len(s3.gets) == -(-SIZE // DEFAULT_BLOCK_SIZE)


def test_size_given_to_fsspec(s3: Counter, s3fs_files: Any) -> None:
    """Then nothing has told an ETag, and the store is not asked for one."""
    app = app_of(lambda: s3fs_files.open(f"{BUCKET}/film", size=SIZE))
    response = answer(app, Range="bytes=0-9")
    assert response.body == DATA[:10]
    assert "ETag" not in response.headers
    # Of s3fs itself, at its first read.
    assert [asked.method for asked in s3.asked].count("HEAD") <= 1


def test_server_without_ranges(web: Counter) -> None:
    """As without us: a file up to fsspec's block size can be had."""
    pytest.importorskip("aiohttp")
    files = pytest.importorskip("fsspec").filesystem("http")
    url = f"{web.url}/whole"

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        return app_of(lambda: files.open(url, block_size=2 * SIZE))(environ, start_response)

    assert answer(app).body == DATA
    assert answer(app, Range="bytes=1000-1999").body == DATA[1000:2000]
    web.forget()
    several = answer(app, Range="bytes=1000-1099,3000000-3000099").body
    assert several.count(DATA[1000:1100]) == several.count(DATA[3_000_000:3_000_100]) == 1
    assert len(web.gets) == 2
    large = app_of(lambda: files.open(url, block_size=1000))
    assert answer(large, Range="bytes=1000000-1999999").status == 500


def test_server_that_says_that_it_has_no_ranges(web: Counter) -> None:
    pytest.importorskip("aiohttp")
    files = pytest.importorskip("fsspec").filesystem("http")
    app = app_of(lambda: files.open(f"{web.url}/none"))
    for fields in ({}, {"Range": "bytes=1000-1999"}):
        response = answer(app, **fields)
        assert (response.status, response.body) == (200, DATA)


def test_server_without_ranges_by_smart_open(web: Counter) -> None:
    """As without us: it can be had. Ranges are read up to where they begin."""
    smart_open = pytest.importorskip("smart_open")
    app = app_of(lambda: smart_open.open(f"{web.url}/whole", "rb"))
    assert answer(app).body == DATA
    assert answer(app, Range="bytes=4000000-4000999").body == DATA[4_000_000:4_001_000]
    assert set(web.ranges) == {None}


def test_zip_in_a_store(s3: Counter, s3fs_files: Any) -> None:
    """Members have a length. Their ETag would be the archive's, so they have none."""
    files = pytest.importorskip("fsspec").filesystem(
        "zip", fo=s3fs_files.open(f"{BUCKET}/archive")
    )
    for name in ("stored", "packed"):
        app = app_of(partial(files.open, name))
        whole = answer(app)
        assert whole.body == DATA[:300_000]
        assert "ETag" not in whole.headers
        assert answer(app, Range="bytes=-1000").body == DATA[299_000:300_000]


def test_memory_and_local_files(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/wsgifile-stores/film", DATA)
    (tmp_path / "film").write_bytes(DATA)
    for make in (
        lambda: memory.open("/wsgifile-stores/film"),
        lambda: fsspec.filesystem("file").open(str(tmp_path / "film")),
    ):
        assert answer(app_of(make), Range="bytes=-1000").body == DATA[-1000:]
    memory.rm("/wsgifile-stores", recursive=True)


# django-storages does not close what it puts a TextIOWrapper around.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_kinds_of_django_storages_files(s3: Counter, django_storage: Any) -> None:
    """What is not the object's bytes, or is here already, is read as Django reads it."""
    http_ = pytest.importorskip("django.http")

    def streamed(make: Callable[[], Any]) -> WSGIApplication:
        return django_app(lambda: http_.StreamingHttpResponse(make()))

    text = answer(streamed(lambda: django_storage.open("text", "r")))
    assert text.body == b"one\ntwo\n"
    unpacking = storage(s3, gzip=True)
    assert answer(streamed(lambda: unpacking.open("packed"))).body == SMALL

    def downloaded() -> Any:
        file = django_storage.open("film")
        assert file.read(10) == DATA[:10]
        return file

    response = answer(streamed(downloaded), Range="bytes=-1000")
    assert response.body == DATA[-1000:]
    assert answer(streamed(downloaded)).body == DATA


def test_decrypting_file_of_django_storages(django_storage: Any) -> None:
    """A sub-class may put another file in the place of what it downloads."""
    backend = pytest.importorskip("storages.backends.s3")

    class Decrypts(backend.S3File):  # type: ignore[misc, name-defined]
        file = io.BytesIO(DATA[::-1])

    app = streaming_response(lambda: Decrypts("film", "rb", django_storage))
    assert answer(app).body == DATA[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_no_strong_etag_for_django_storages(
    s3: Counter, django_storage: Any, etag: str | None
) -> None:
    """No condition would hold, so all of it is downloaded by one request, as Django does."""
    file = django_storage.open("small")
    file.obj.meta.data["ETag"] = etag
    response = answer(streaming_response(lambda: file))
    assert (response.status, response.body) == (200, SMALL)
    assert s3.ranges == [None]


def test_short_answer_to_django_storages(
    s3: Counter, django_storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that sends another range than was asked for."""
    file = django_storage.open("film")
    got = file.obj.get
    another = {"Range": "bytes=0-9"}
    monkeypatch.setattr(type(file.obj), "get", lambda self, **asked: got(**{**asked, **another}))
    assert answer(app_of(lambda: file), Range="bytes=100-199").status == 500


def django_app(respond: Callable[[], Any]) -> WSGIApplication:
    handler: Any = pytest.importorskip("django.core.handlers.wsgi").WSGIHandler()
    handler.get_response = lambda request: respond()
    return handler  # type: ignore[no-any-return]


def streaming_response(file: Any) -> WSGIApplication:
    django_http = pytest.importorskip("django.http")
    return django_app(lambda: django_http.StreamingHttpResponse(file()))


def file_response(file: Any) -> WSGIApplication:
    django_http = pytest.importorskip("django.http")
    return django_app(lambda: django_http.FileResponse(file()))


def field_file(file: Any) -> WSGIApplication:
    files = pytest.importorskip("django.db.models.fields.files")

    def make() -> Any:
        storage = SimpleNamespace(open=lambda name, mode: file())
        return files.FieldFile(None, SimpleNamespace(storage=storage), "film")

    return streaming_response(make)


def flask_send_file(file: Any) -> WSGIApplication:
    flask = pytest.importorskip("flask")
    app = flask.Flask("stores")
    app.add_url_rule("/", "film", lambda: flask.send_file(file(), mimetype="video/mp4"))
    return app  # type: ignore[no-any-return]


def flask_response(file: Any) -> WSGIApplication:
    flask = pytest.importorskip("flask")
    app = flask.Flask("stores")
    app.add_url_rule("/", "film", lambda: flask.Response(file(), mimetype="video/mp4"))
    return app  # type: ignore[no-any-return]


def webob_app_iter(file: Any) -> WSGIApplication:
    webob = pytest.importorskip("webob")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        response = webob.Response(app_iter=file(), conditional_response=True)
        return response(environ, start_response)

    return app


def webob_wrapper(file: Any) -> WSGIApplication:
    webob = pytest.importorskip("webob")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        app_iter = environ["wsgi.file_wrapper"](file())
        response = webob.Response(app_iter=app_iter, content_length=SIZE)
        response.conditional_response = True
        return response(environ, start_response)

    return app


def falcon_stream(file: Any) -> WSGIApplication:
    falcon = pytest.importorskip("falcon")
    app = falcon.App()

    class Film:
        def on_get(self, request: Any, response: Any) -> None:
            response.stream = file()

    app.add_route("/", Film())
    return app  # type: ignore[no-any-return]


@pytest.mark.parametrize("library", ["s3fs", "django-storages"], indirect=True)
@pytest.mark.parametrize(
    "framework",
    [
        streaming_response,
        file_response,
        field_file,
        flask_send_file,
        flask_response,
        webob_app_iter,
        webob_wrapper,
        falcon_stream,
    ],
    ids=lambda framework: framework.__name__,
)
def test_frameworks(
    request: pytest.FixtureRequest, library: tuple[Counter, Open], framework: Any
) -> None:
    """What a framework puts around such a file makes no difference."""
    counter, open_ = library
    app = framework(lambda: open_("film"))
    response = answer(app, Range="bytes=3000000-3000099")
    assert response.status == 206
    assert response.body == DATA[3_000_000:3_000_100]
    name = request.node.callspec.params["library"]
    # Django's FileResponse asks each file whether it is seekable, which downloads this one.
    downloads = framework is file_response and name == "django-storages"
    assert counter.ranges == ["bytes=3000000-3000099"] or downloads
    assert answer(app).body == DATA
