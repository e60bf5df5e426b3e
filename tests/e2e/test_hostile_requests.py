"""Requests that nobody sends by accident: each with its exact status, whether the connection ends,
and a daemon that is as it was."""
import json
import os
import socket

import pytest

from harness import REQUEST_S, SANITIZER, Daemon

ORIGIN = "https://a.example"
DB = "/api/v1/databases/docs"
JSON_HEAD = "Host: x\r\nContent-Type: application/json\r\n"
OPEN, CLOSED = True, False


def get(target, head="Host: x\r\n", method="GET"):
    return (f"{method} {target} HTTP/1.1\r\n".encode() + head.encode() + b"\r\n")


def post(path, body, head=JSON_HEAD):
    body = body if isinstance(body, bytes) else body.encode()
    return f"POST {DB}{path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def framed(lines, rest="{}"):
    return f"POST {DB}/count HTTP/1.1\r\n{JSON_HEAD}{lines}\r\n{rest}".encode()


def chunked(rest):
    return framed("Transfer-Encoding: chunked\r\n", rest)


def row(fields):
    return post("/vectors", '{"vector_id":1,"data":[1,2,3]' + fields)


# What is not by our own code (a line that libmicrohttpd refuses) has no code in its body.
CASES = {
    # the request line
    "zero in path": (get(DB + "\0-old"), 400, "invalid_request", CLOSED),
    "zero in path of a delete": (get(DB + "\0-old", method="DELETE"), 400, "invalid_request", CLOSED),
    "zero in query": (get(DB + "/vectors?limit=1\0"), 400, "invalid_request", CLOSED),
    "zero in method": (get(DB, method="GET\0X"), 400, "invalid_request", CLOSED),
    "tab in path": (get(DB + "\t"), 400, "invalid_request", CLOSED),
    "encoded zero in name": (get(DB + "%00"), 400, "invalid_name", OPEN),
    "encoded zero in id": (get(DB + "/vectors/1%00"), 400, "invalid_id", OPEN),
    "bad escape": (get(DB + "%zz"), 400, "invalid_name", OPEN),
    "cut escape": (get(DB + "%"), 400, "invalid_name", OPEN),
    "overlong UTF-8": (get(DB + "%c0%af"), 400, "invalid_name", OPEN),
    "parent": (get("/api/v1/databases/%2e%2e"), 400, "invalid_name", OPEN),
    "way out": (get("/api/v1/databases/..%2f..%2fetc%2fpasswd"), 400, "invalid_name", OPEN),
    "long URI": (get("/" + "a" * 9000), 414, "uri_too_long", CLOSED),
    "very long URI": (get("/" + "a" * 100000), 414, None, CLOSED),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 400, None, CLOSED),
    "HTTP/9.9": (b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", 505, None, CLOSED),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, None, CLOSED),
    "unknown method": (get(DB, method="BREW"), 405, "method_not_allowed", OPEN),
    "TRACE": (get("/health", method="TRACE"), 405, "method_not_allowed", OPEN),
    "CONNECT": (get("x:80", method="CONNECT"), 404, "not_found", OPEN),
    "OPTIONS without CORS": (get(DB, method="OPTIONS"), 405, "method_not_allowed", OPEN),
    # headers
    "no Host": (get("/health", ""), 400, None, CLOSED),
    "two Hosts": (get("/health", "Host: x\r\nHost: y\r\n"), 400, "invalid_request", CLOSED),
    "no colon": (get("/health", "Host: x\r\nnonsense\r\n"), 400, None, CLOSED),
    "space before colon": (framed("Content-Length : 2\r\n"), 400, "invalid_request", CLOSED),
    "bad name": (get("/health", "Host: x\r\nX(A): 1\r\n"), 400, "invalid_request", CLOSED),
    "long header": (get("/health", "Host: x\r\nX: " + "a" * 40000 + "\r\n"), 431, None, CLOSED),
    "many headers": (get("/health", "Host: x\r\n" + "X: 1\r\n" * 9000), 431, None, CLOSED),
    # where a body ends
    "two lengths": (framed("Content-Length: 2\r\nContent-Length: 3\r\n"), 400, "invalid_request", CLOSED),
    "the same length twice": (framed("Content-Length: 2\r\n" * 2), 400, "invalid_request", CLOSED),
    "list of lengths": (framed("Content-Length: 2, 2\r\n"), 400, None, CLOSED),
    "negative length": (framed("Content-Length: -2\r\n"), 400, None, CLOSED),
    "signed length": (framed("Content-Length: +2\r\n"), 400, None, CLOSED),
    "hexadecimal length": (framed("Content-Length: 0x2\r\n"), 400, None, CLOSED),
    "empty length": (framed("Content-Length: \r\n"), 400, None, CLOSED),
    "length of 2^64-1": (framed(f"Content-Length: {2**64 - 1}\r\n"), 400, "invalid_request", CLOSED),
    "length of 10^22": (framed(f"Content-Length: {10**22}\r\n"), 413, None, CLOSED),
    "long body": (framed("Content-Length: 65537\r\n"), 413, "payload_too_large", CLOSED),
    "length and chunks": (framed("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
                          400, "invalid_request", CLOSED),
    "chunks and length": (framed("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "0\r\n\r\n"),
                          400, "invalid_request", CLOSED),
    "chunked twice": (framed("Transfer-Encoding: chunked\r\n" * 2, "0\r\n\r\n"), 400, "invalid_request",
                      CLOSED),
    "another coding": (framed("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 400,
                       "invalid_request", CLOSED),
    "chunk without size": (chunked("ZZ\r\n{}\r\n0\r\n\r\n"), 400, None, CLOSED),
    "negative chunk": (chunked("-2\r\n{}\r\n0\r\n\r\n"), 400, None, CLOSED),
    "chunk of 2^68": (chunked("fffffffffffffffff\r\n{}\r\n0\r\n\r\n"), 413, None, CLOSED),
    "chunk without end": (chunked("2\r\n{}XX0\r\n\r\n"), 400, None, CLOSED),
    "body of a GET": (get("/health", "Host: x\r\nContent-Length: 5\r\n") + b"hello", 400,
                      "invalid_request", CLOSED),
    # what is in it
    "cut JSON": (post("/vectors", '{"vector_id":1,"data":[1,2'), 400, "invalid_json", OPEN),
    "trailing bytes": (row("} x"), 400, "invalid_json", OPEN),
    "nested metadata": (row(',"metadata":{"a":' + "[" * 70 + "]" * 70 + "}}"), 400, "invalid_json", OPEN),
    "nested query": (post("/search", "[" * 5000), 400, "invalid_json", OPEN),
    "invalid UTF-8": (post("/vectors", b'{"vector_id":"\xff","data":[1,2,3]}'), 400, "invalid_json", OPEN),
    "lone surrogate": (row(',"metadata":{"a":"\\ud800"}}'), 400, "invalid_json", OPEN),
    "raw zero": (row(',"metadata":{"a":\0}}'), 400, "invalid_json", OPEN),
    "zero in id": (post("/vectors", '{"vector_id":"a\\u0000","data":[1,2,3]}'), 400, "invalid_id", OPEN),
    "key twice": (row(',"vector_id":2}'), 400, "invalid_request", OPEN),
    "number beyond float32": (post("/vectors", '{"data":[1e39,2,3]}'), 400, "invalid_vector", OPEN),
    "NaN": (post("/vectors", '{"data":[NaN,2,3]}'), 400, "invalid_vector", OPEN),
    "too many results": (post("/search", '{"data":[1,2,3],"top_k":1000000000}'), 400, "invalid_request",
                         OPEN),
    "too many ids": (post("/vectors/get", json.dumps({"ids": list(range(10001))})), 400,
                     "invalid_request", OPEN),
    "deep filter": (post("/search", '{"data":[1,2,3],"filter":' + '{"$not":' * 20 + '{"a":1}' + "}" * 21),
                    400, "invalid_filter", OPEN),
    "wide filter": (post("/search", json.dumps({"data": [1, 2, 3], "filter": {
        "$or": [{"a": i} for i in range(1001)]}})), 400, "invalid_filter", OPEN),
}


def answer_of(port, data):
    """Status, body, and whether the connection is open behind it: then it takes a next request."""
    with socket.create_connection(("127.0.0.1", port), REQUEST_S) as sock:
        try:
            sock.sendall(data)
        except ConnectionError:
            pass  # it has its answer already
        got, length = b"", None
        while length is None or len(got) < length:
            piece = sock.recv(65536)
            assert piece, f"closed without an answer: {got!r}"
            got += piece
            head, end, _ = got.partition(b"\r\n\r\n")
            if end and length is None:
                at = head.lower().index(b"content-length:") + 15
                length = len(head) + 4 + int(head[at:].split(b"\r\n", 1)[0])
        head, _, body = got[:length].partition(b"\r\n\r\n")
        is_open = b"connection: close" not in head.lower()
        try:
            if is_open:
                sock.sendall(get("/health"))
                assert sock.recv(65536).startswith(b"HTTP/1.1 200 "), "out of step"
            else:
                while sock.recv(65536):
                    pass
        except ConnectionError:
            assert not is_open
        # libmicrohttpd's 400 for a bad Content-Length is a page with another one's head before it.
        return int(head.split(b" ", 2)[1]), body, is_open


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("hostile") / "data", server_max_body_bytes=65536,
                    server_cors_origins=f"{ORIGIN}, https://c.example").start()
    daemon.create("docs", 3)
    daemon.put_rows("docs", [1], [[1, 2, 3]])
    yield daemon
    daemon.stop()


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_request_has_its_answer(target, name):
    data, status, code, stays_open = CASES[name]
    got, body, is_open = answer_of(target.port, data)
    assert got == status, body
    if code:
        error = json.loads(body)["error"]
        assert error["code"] == code, error
    assert is_open == stays_open
    assert target.get("/databases/docs").json()["vector_count"] == 1
    assert target.get("/databases/docs/vectors/1").json()["data"] == [1, 2, 3]


def test_all_of_them_many_times_leave_nothing_behind(target):
    """In memory, descriptors and threads."""
    def state():
        target.get("/health", root=True)
        return (target.rss_anon(), len(os.listdir(f"/proc/{target.pid}/fd")),
                len(os.listdir(f"/proc/{target.pid}/task")))

    def all_of_them():
        for data, status, _, _ in CASES.values():
            assert answer_of(target.port, data)[0] == status

    for _ in range(5):
        all_of_them()
    before = state()
    for _ in range(20):
        all_of_them()
    after = state()
    print(f"{20 * len(CASES)} requests: memory, descriptors, threads {before} -> {after}")
    assert after[1] <= before[1] + 1 and after[2] == before[2]
    if not SANITIZER:
        assert after[0] < before[0] * 1.1 + (1 << 20)


def test_cors_is_for_the_origins_that_are_configured(target):
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    reply = target.request("OPTIONS", "/databases/docs/vectors", 204, headers=ask)
    assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert {"GET", "POST"} <= set(reply.headers["Access-Control-Allow-Methods"].split(", "))
    assert "X-API-Key" in reply.headers["Access-Control-Allow-Headers"]
    assert reply.headers["Vary"] == "Origin" and reply.content == b""
    for path, status in (("/databases/docs", 200), ("/databases/absent", 404)):
        reply = target.get(path, status, headers={"Origin": ORIGIN})
        assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
    for origin in ("https://b.example", "https://a.example.evil", "null", "https://a.exampl", "*"):
        reply = target.get("/databases/docs", headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in reply.headers
        reply = target.request("OPTIONS", "/databases/docs", 405, headers={**ask, "Origin": origin})
        assert "Access-Control-Allow-Origin" not in reply.headers
    assert "Access-Control-Allow-Origin" not in target.get("/databases/docs").headers
    target.request("OPTIONS", "/nothing", 404, headers=ask)
