"""Forms of request bodies: raw rows, compressed ones, lines."""
import ctypes
import gzip
import json
import socket
import time
import zlib

import numpy as np
import pytest

from harness import REQUEST_S, SANITIZER, TIME_SCALE, random_rows

FLOATS = {"Content-Type": "application/octet-stream"}


def put_floats(daemon, name, first_id, rows, status=200, **query):
    rows = np.ascontiguousarray(rows, "<f4")
    params = {"first_id": first_id, "count": len(rows), **query}
    return daemon.request("POST", f"/databases/{name}/vectors/batch", status, params=params,
                          data=rows.tobytes(), headers=FLOATS)


def error_of(response, status, code, *words):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code, error
    for word in words:
        assert word in error["message"], error
    return error


# ---- raw float32 rows ----

@pytest.mark.parametrize("count, dimension", [(1, 1), (3, 5), (100, 384), (5000, 17)])
def test_raw_rows_come_back_bit_for_bit(any_daemon, count, dimension):
    pattern = np.random.default_rng(3).integers(0, 1 << 32, (count, dimension), np.uint32)
    rows = pattern.view(np.float32)
    rows = np.where(np.isfinite(rows), rows, np.float32(-0.0))
    any_daemon.create("docs", dimension)
    reply = put_floats(any_daemon, "docs", 10, rows).json()
    assert (reply["count"], reply["created"], reply["replaced"]) == (count, count, 0)
    assert any_daemon.rows("docs") == {10 + i: (row.tobytes(), {}) for i, row in enumerate(rows)}
    assert put_floats(any_daemon, "docs", 10, rows).json()["replaced"] == count


def test_raw_rows_survive_a_kill(daemon):
    rows = random_rows(4, 700, 96)
    daemon.create("docs", 96)
    put_floats(daemon, "docs", 0, rows)
    daemon.restart(kill=True)
    assert daemon.rows("docs") == {i: (row.tobytes(), {}) for i, row in enumerate(rows)}
    daemon.wait_log(r'"docs": replayed 1 log records')  # all or nothing


def test_raw_rows_of_unknown_length(daemon):
    rows = random_rows(5, 2000, 64)
    daemon.create("docs", 64)
    raw = rows.tobytes()
    pieces = (raw[at:at + 10001] for at in range(0, len(raw), 10001))
    daemon.request("POST", "/databases/docs/vectors/batch?first_id=0&count=2000", 200, data=pieces,
                   headers=FLOATS)
    assert daemon.rows("docs") == {i: (row.tobytes(), {}) for i, row in enumerate(rows)}


@pytest.mark.parametrize("count", [3, 3000])
def test_a_bad_raw_body_stores_nothing(daemon, count):
    daemon.create("docs", 8)
    path = f"/databases/docs/vectors/batch?first_id=0&count={count}"
    rows = random_rows(6, count, 8)
    for raw in (rows.tobytes() + b"x", rows.tobytes()[:-1], rows.tobytes()[:-4], b""):
        error_of(daemon.request("POST", path, data=raw, headers=FLOATS), 400, "invalid_request",
                 f"{len(raw)} bytes", f"{count * 32} bytes")
    error_of(daemon.request("POST", path, data=rows[:, :7].tobytes(), headers=FLOATS), 400,
             "dimension_mismatch", "7 float32 numbers", "dimension 8")
    rows[count - 2, 5] = np.nan
    error_of(daemon.request("POST", path, data=rows.tobytes(), headers=FLOATS), 400,
             "invalid_vector", f"number 6 of vector {count - 1} of {count}")
    assert daemon.count("docs") == 0


# ---- compressed bodies ----

def zstd_compress(data, level=3):
    lib = ctypes.CDLL("libzstd.so.1")
    lib.ZSTD_compressBound.restype = lib.ZSTD_compress.restype = ctypes.c_size_t
    lib.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
    lib.ZSTD_compress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p,
                                  ctypes.c_size_t, ctypes.c_int]
    out = ctypes.create_string_buffer(lib.ZSTD_compressBound(len(data)))
    size = lib.ZSTD_compress(out, len(out), data, len(data), level)
    return out.raw[:size]


def zstd_frame(*runs, window_log=17):
    """A frame made by hand: of each byte 128 KiB, in four bytes."""
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    for i, byte in enumerate(runs):
        head = (i == len(runs) - 1) | 1 << 1 | (128 * 1024) << 3
        frame += head.to_bytes(3, "little") + bytes([byte])
    return frame


def gzip_bomb(megabytes, byte=b" "):
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([pack.compress(byte * (1 << 20)) for _ in range(megabytes)]) + pack.flush()


PACKERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "GZIP": gzip.compress,
           "zstd": zstd_compress, "identity": bytes}


def send(daemon, path, data, encoding, content_type="application/json", method="POST"):
    return daemon.request(method, path, data=data, headers={"Content-Type": content_type,
                                                            "Content-Encoding": encoding})


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("chunked", [False, True])
def test_every_route_with_a_body_takes_compressed_ones(any_daemon, encoding, chunked):
    def ask(method, path, body, status=200, content_type="application/json"):
        packed = PACKERS[encoding](body if isinstance(body, bytes) else json.dumps(body).encode())
        # No empty piece: requests would make of it the end of the body.
        data = (piece for piece in (packed[:7], packed[7:]) if piece) if chunked else packed
        reply = send(any_daemon, path, data, encoding, content_type, method)
        assert reply.status_code == status, reply.text
        return reply.json()

    rows = random_rows(7, 2000, 16)
    ask("POST", "/databases/docs", {"dimension": 16, "distance_metric": "euclidean"}, 201)
    ask("PUT", "/databases/docs", {"dimension": 16, "distance_metric": "euclidean"})
    ask("POST", "/databases/docs/vectors", {"vector_id": 5000, "data": [0] * 16}, 201)
    ask("PUT", "/databases/docs/vectors/5001", {"data": [0] * 16}, 201)
    batch = [{"vector_id": i, "data": [float(x) for x in row]} for i, row in enumerate(rows)]
    ask("POST", "/databases/docs/vectors/batch", {"vectors": batch})  # long: expanded in pieces
    ask("POST", "/databases/docs/vectors/batch?first_id=6000&count=2000", rows.tobytes(),
        content_type="application/octet-stream")
    found = any_daemon.rows("docs")
    assert len(found) == 4002
    for i, row in enumerate(rows):
        assert found[i] == found[6000 + i] == (row.tobytes(), {})
    assert ask("POST", "/databases/docs/search", {"data": [0] * 16, "top_k": 1, "filter": {}})["results"]
    assert ask("POST", "/databases/docs/search/batch", {"searches": [{"data": [0] * 16}] * 3})["results"]
    assert len(ask("POST", "/databases/docs/vectors/get", {"ids": [1, 2]})["vectors"]) == 2
    assert ask("POST", "/databases/docs/vectors/scroll", {"limit": 1})["vectors"]
    assert ask("POST", "/databases/docs/count", {})["count"] == 4002
    dump = any_daemon.post("/export", {"format": "json"}).content
    any_daemon.delete("/databases/docs")
    assert ask("POST", "/import", dump)["imported"] == 4002
    assert any_daemon.rows("docs") == found
    any_daemon.delete("/databases/docs")
    assert ask("POST", "/databases/docs/restore",
               json.dumps(json.loads(dump)["databases"][0]).encode())["imported"] == 4002
    assert any_daemon.rows("docs") == found
    assert ask("POST", "/databases/docs/vectors/delete", {"ids": [1, 2]})["deleted"] == 2
    ask("POST", "/storage/flush", {})


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd,gzip", "compress", "utf-8"])
def test_an_unknown_encoding_is_refused_with_the_known_ones(daemon, encoding):
    for path in ("/databases/docs", "/import"):
        reply = send(daemon, path, b"xx", encoding)
        error_of(reply, 415, "unsupported_media_type", encoding, "gzip", "zstd", "identity")
        assert reply.headers["Accept-Encoding"] == "gzip, zstd"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_streams_that_are_not_whole_are_refused(daemon, encoding):
    daemon.create("docs", 4)
    body = json.dumps({"vectors": [{"data": [1, 2, 3, i]} for i in range(1000)]}).encode()
    dump = json.dumps({"databases": [{"name": "other", "schema": {"dimension": 1},
                                      "vectors": []}]}).encode()
    for path, text in (("/databases/docs/vectors/batch", body), ("/import", dump)):
        good = PACKERS[encoding](text)
        for bad, says in ((good[:-1], "middle"), (good[:len(good) // 2], "middle"), (good[:1], "middle"),
                          (good + b"{}", "behind the end"), (good + b"\0" * 512, "behind the end"),
                          (text, f"is not {encoding}"), (b"\0", f"is not {encoding}")):
            error_of(send(daemon, path, bad, encoding), 400, "invalid_request", says)
    good = PACKERS["gzip"](body)  # which has a checksum; what ZSTD_compress() makes has none
    for at in range(20, len(good) - 8, 97):
        reply = send(daemon, "/databases/docs/vectors/batch",
                     good[:at] + bytes([good[at] ^ 0xff]) + good[at + 1:], "gzip")
        assert reply.status_code == 400, reply.text
    assert daemon.count("docs") == 0
    # Members one behind the other are one body; no bytes at all are none.
    reply = send(daemon, "/databases/docs/vectors/batch",
                 PACKERS[encoding](body[:100]) + PACKERS[encoding](body[100:]), encoding)
    assert reply.json()["count"] == 1000
    assert send(daemon, "/databases/docs/count", b"", encoding).status_code == 200
    assert send(daemon, "/databases/docs/count", iter([]), encoding).status_code == 200


def test_the_limit_is_for_what_a_body_expands_to(daemons):
    daemon = daemons(server_max_body_bytes=65536)
    daemon.create("docs", 3)
    for encoding in ("gzip", "zstd"):
        body = b'{"vector_id":1,"data":[1,2,3]' + b" " * 65506 + b"}"
        for _ in range(2):  # one byte more is too much, and the connection lives on
            assert send(daemon, "/databases/docs/vectors", PACKERS[encoding](body), encoding).ok
            error_of(send(daemon, "/databases/docs/vectors", PACKERS[encoding](body + b" "), encoding),
                     413, "payload_too_large", "server.max_body_bytes")


def test_a_low_limit_does_not_refuse_windows(daemons):
    daemon = daemons(server_max_body_bytes=1024)
    daemon.create("docs", 3)
    body = b'{"data":[1,2,3]}'
    for log in (21, 23):  # what a compressor says that does not know how much will come
        frame = zstd_frame(window_log=log) + (1 | len(body) << 3).to_bytes(3, "little") + body
        for _ in range(5):
            assert send(daemon, "/databases/docs/vectors", frame, "zstd").status_code == 201


BOMBS = {"gzip": lambda: gzip_bomb(500), "zstd": lambda: zstd_frame(*b" " * 4000)}


@pytest.mark.parametrize("encoding", BOMBS)
def test_a_bomb_costs_neither_memory_nor_time(daemons, encoding):
    daemon = daemons(server_max_body_bytes=8 << 20)
    daemon.create("docs", 4)
    bomb = BOMBS[encoding]()
    assert len(bomb) < 600000
    before, began = daemon.rss_anon(), time.monotonic()
    for path in ("/databases/docs/vectors/batch", "/databases/docs/search"):
        for _ in range(3):
            error_of(send(daemon, path, bomb, encoding), 413, "payload_too_large")
    if not SANITIZER:
        assert daemon.rss_anon() - before < 24 << 20
    assert time.monotonic() - began < 10 * TIME_SCALE


def test_a_streamed_bomb_is_cut_off_without_taking_memory(daemons):
    daemon = daemons(server_max_body_bytes=1 << 20)
    before = daemon.rss_anon()
    error_of(send(daemon, "/import", zstd_frame(*b" " * 20000), "zstd"), 413, "payload_too_large",
             "times longer")
    # What gzip can do is let through, and is white space here.
    error_of(send(daemon, "/import", gzip_bomb(100), "gzip"), 400, "invalid_json")
    if not SANITIZER:
        assert daemon.rss_anon() - before < 32 << 20


def test_a_zstd_window_has_a_bound(daemon):
    daemon.create("docs", 4)
    for log in (24, 27, 31, 41):
        error_of(send(daemon, "/databases/docs/count", zstd_frame(32, window_log=log), "zstd"), 400,
                 "invalid_request", "window", "8 MiB")
    blank = send(daemon, "/databases/docs/count", zstd_frame(32, window_log=23), "zstd")
    assert blank.json() == {"count": 0}


def test_a_client_that_leaves_in_the_middle_leaves_nothing(daemon):
    daemon.create("docs", 64)
    rows = [{"vector_id": i, "data": [float(x) for x in row]}
            for i, row in enumerate(random_rows(8, 4000, 64))]
    packed = gzip.compress(json.dumps({"vectors": rows}).encode(), 1)
    head = ("POST /api/v1/databases/docs/vectors/batch HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip"
            f"\r\nContent-Length: {len(packed)}\r\n\r\n").encode()
    for i in range(8):
        with socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) as sock:
            sock.sendall(head + packed[:len(packed) * i // 8])
    assert daemon.count("docs") == 0
    assert send(daemon, "/databases/docs/vectors/batch", packed, "gzip").json()["count"] == 4000


# ---- lines ----

LINES = "application/x-ndjson"


def send_lines(daemon, data, name="docs", encoding=None, **query):
    headers = {"Content-Type": LINES, **({"Content-Encoding": encoding} if encoding else {})}
    return daemon.request("POST", f"/databases/{name}/vectors/batch", data=data, headers=headers,
                          params=query)


def lines_of(rows, first=0, end="\n"):
    return "".join(json.dumps({"vector_id": first + i, "data": [float(x) for x in row]}) + end
                   for i, row in enumerate(rows)).encode()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", " \t\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
def test_lines_come_back_bit_for_bit(any_daemon, end, last, encoding):
    rows = random_rows(9, 2345, 24)
    any_daemon.create("docs", 24)
    text = lines_of(rows, end=end)
    if not last:
        text = text[:-len(end)]
    reply = send_lines(any_daemon, PACKERS[encoding or "identity"](text), encoding=encoding)
    assert reply.status_code == 200, reply.text
    reply = reply.json()
    assert (reply["count"], reply["created"], reply["replaced"]) == (2345, 2345, 0)
    assert reply["committed"] == text.count(b"\n") + (0 if last else 1)
    assert any_daemon.rows("docs") == {i: (row.tobytes(), {}) for i, row in enumerate(rows)}


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_lines_are_exempt_from_the_limit_and_take_constant_memory(daemons, encoding):
    daemon = daemons(server_max_body_bytes=65536)
    daemon.create("docs", 8, durability="periodic", index={"type": "flat"})
    rows = random_rows(10, 1000, 8)
    block = lines_of(rows)  # over and over: the same ids

    def text(blocks):
        for _ in range(blocks):
            yield block

    assert send_lines(daemon, text(5)).json()["count"] == 5000
    before = daemon.rss_anon()
    data = text(150) if encoding is None else gzip.compress(block * 150)
    reply = send_lines(daemon, data, encoding=encoding).json()
    assert (reply["count"], reply["replaced"], reply["committed"]) == (150000, 150000, 150000)
    assert 150 * len(block) > 20 << 20
    # What replaced rows leave behind is not of the stream: about 100 bytes for each.
    if not SANITIZER:
        assert daemon.rss_anon() - before < 24 << 20
    assert daemon.rows("docs") == {i: (row.tobytes(), {}) for i, row in enumerate(rows)}


def test_a_bad_line_in_the_middle_says_what_was_stored(any_daemon):
    rows = random_rows(11, 2500, 8)
    any_daemon.create("docs", 8)
    lines = lines_of(rows).splitlines(keepends=True)
    lines[2222] = b'{"vector_id":1,"data":[1,2,3]}\n'
    error = error_of(send_lines(any_daemon, b"".join(lines)), 400, "dimension_mismatch", "line 2223 ",
                     "3 numbers", "dimension 8")
    assert error["details"] == {"line": 2223, "committed": 2000}
    assert any_daemon.count("docs") == 2000
    # Go on behind what is committed.
    lines[2222] = lines_of(rows[2222:2223], 2222)
    reply = send_lines(any_daemon, b"".join(lines[error["details"]["committed"]:])).json()
    assert reply["count"] == 500
    assert any_daemon.rows("docs") == {i: (row.tobytes(), {}) for i, row in enumerate(rows)}
    # Early in a long stream: the rest goes by, and the client gets to know.
    error = error_of(send_lines(any_daemon, b"{]\n" + b"".join(lines) * 20), 400, "invalid_json",
                     "line 1: ")
    assert error["details"] == {"line": 1, "committed": 0}


def test_committed_lines_survive_a_kill(daemon):
    rows = random_rows(12, 3000, 8)
    daemon.create("docs", 8)
    error = error_of(send_lines(daemon, lines_of(rows) + b"x"), 400, "invalid_json", "line 3001")
    assert error["details"]["committed"] == 3000
    daemon.restart(kill=True)
    assert daemon.count("docs") == 3000


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_client_that_leaves_between_lines_leaves_whole_chunks(daemon, encoding):
    daemon.create("docs", 8)
    data = lines_of(random_rows(13, 30000, 8))
    if encoding:
        data = gzip.compress(data, 1)
    head = (f"POST /api/v1/databases/docs/vectors/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {LINES}"
            + (f"\r\nContent-Encoding: {encoding}" if encoding else "") +
            f"\r\nContent-Length: {len(data)}\r\n\r\n").encode()
    with socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) as sock:
        sock.sendall(head + data[:len(data) // 2])
        deadline = time.monotonic() + 20 * TIME_SCALE
        while not daemon.count("docs"):
            assert time.monotonic() < deadline
    daemon.stop()  # which waits for requests under way
    daemon.start()
    stored = daemon.count("docs")
    assert 0 < stored < 30000 and stored % 1000 == 0


def test_a_compressed_stream_of_lines_that_ends_early_says_what_was_stored(daemon):
    daemon.create("docs", 8)
    data = gzip.compress(lines_of(random_rows(14, 30000, 8)), 1)
    error = error_of(send_lines(daemon, data[:-5], encoding="gzip"), 400, "invalid_request", "middle")
    assert error["details"] == {"committed": 30000}
    assert daemon.count("docs") == 30000
    error = error_of(send_lines(daemon, zstd_frame(*b"\n" * 20000), encoding="zstd"), 413,
                     "payload_too_large", "times longer")
    assert "line" not in error["details"]


def test_a_line_has_a_greatest_length(daemon):
    daemon.create("docs", 8)
    for encoding, data in ((None, b"\n\n" + b" " * (9 << 20)), ("gzip", gzip_bomb(200))):
        reply = send_lines(daemon, data, encoding=encoding)
        error = error_of(reply, 413, "payload_too_large", "line", "8388608 bytes")
        assert error["details"] == {"line": 1 if encoding else 3, "committed": 0}
