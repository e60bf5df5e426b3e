"""Compressed answers: who gets them, and that they say the same."""
import gzip
import json
import threading

import pytest

from harness import SANITIZER, random_rows, run_threads


def fill(daemon, count=3000, dimension=32):
    daemon.create("docs", dimension)
    daemon.put_rows("docs", range(count), random_rows(1, count, dimension))


def ask(daemon, path, accept=None, method="GET", body=None):
    """Status, headers and body as they came, with no Accept-Encoding but `accept`."""
    connection = daemon.connect()
    headers = {"Content-Type": "application/json"} if body else {}
    if accept is not None:
        headers["Accept-Encoding"] = accept
    connection.putrequest(method, path, skip_accept_encoding=True)
    data = json.dumps(body).encode() if body else b""
    for name, value in {**headers, "Content-Length": len(data)}.items():
        connection.putheader(name, str(value))
    connection.endheaders(data)
    response = connection.getresponse()
    raw = response.read()
    connection.close()
    return response.status, response.headers, raw


ROUTES = [("GET", "/api/v1/databases/docs/vectors?limit=1000&include=data", None),
          ("GET", "/api/v1/databases/docs/vectors?limit=10&include=data", None),
          ("POST", "/api/v1/databases/docs/vectors/get", {"ids": list(range(500))}),
          ("POST", "/api/v1/databases/docs/vectors/scroll", {"limit": 1000}),
          ("GET", "/openapi.json", None), ("GET", "/metrics", None),
          ("GET", "/api/v1/databases/docs/export", None), ("POST", "/api/v1/export", {"format": "json"})]


@pytest.mark.parametrize("method, path, body", ROUTES)
def test_a_compressed_answer_says_the_same(any_daemon, method, path, body):
    fill(any_daemon)
    status, headers, plain = ask(any_daemon, path, None, method, body)
    assert status == 200 and "Content-Encoding" not in headers
    assert headers["Vary"] == "Accept-Encoding" and len(plain) > 1024
    for accept in ("gzip", "br;q=1, gzip;q=0.8, *;q=0.1", "*"):
        status, headers, packed = ask(any_daemon, path, accept, method, body)
        assert status == 200 and headers["Content-Encoding"] == "gzip"
        assert headers["Vary"] == "Accept-Encoding" and len(packed) < len(plain) * 0.8
        if path != "/metrics":
            assert gzip.decompress(packed) == plain
        else:
            assert gzip.decompress(packed)[:200] == plain[:200]
    for accept in ("", "identity", "br", "gzip;q=0", "gzip;q=0.5, identity", "identity, *;q=0"):
        _, headers, again = ask(any_daemon, path, accept, method, body)
        assert "Content-Encoding" not in headers
        assert again == plain or path == "/metrics"


def test_short_answers_and_heads_are_not_compressed(daemon):
    daemon.create("docs", 4)
    for path in ("/health", "/api/v1/databases/docs", "/api/v1/databases/absent"):
        _, headers, body = ask(daemon, path, "gzip")
        assert "Content-Encoding" not in headers and json.loads(body)
    status, headers, body = ask(daemon, "/openapi.json", "gzip", "HEAD")
    assert status == 200 and not body and "Content-Encoding" not in headers


def test_a_long_export_is_compressed_in_constant_memory(daemons):
    daemon = daemons()
    fill(daemon, 20000, 128)
    before = daemon.rss_anon()
    plain = ask(daemon, "/api/v1/databases/docs/export")[2]
    packed = ask(daemon, "/api/v1/databases/docs/export", "gzip")[2]
    assert len(plain) > 20 << 20
    assert gzip.decompress(packed) == plain
    if not SANITIZER:
        assert daemon.rss_anon() - before < 24 << 20


def test_many_clients_at_once_get_their_own(daemon):
    fill(daemon)
    wanted = {limit: ask(daemon, f"/api/v1/databases/docs/vectors?limit={limit}&include=data")[2]
              for limit in (10, 100, 900)}
    start = threading.Barrier(6)

    def client(limit):
        start.wait()
        for i in range(20):
            accept = "gzip" if i % 3 else None
            path = f"/api/v1/databases/docs/vectors?limit={limit}&include=data"
            raw = ask(daemon, path, accept)[2]
            assert (gzip.decompress(raw) if accept else raw) == wanted[limit]

    run_threads([lambda limit=limit: client(limit) for limit in (10, 100, 900) * 2])
