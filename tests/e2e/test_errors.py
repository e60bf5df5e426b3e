"""Every documented error: its status, its code, and a message that names the thing."""
import json
import socket

import pytest

from harness import REQUEST_S, SANITIZER

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def daemon(module_daemon):
    module_daemon.create("docs", 3)
    module_daemon.put_rows("docs", [1, 2], [[1, 2, 3], [4, 5, 6]])
    yield module_daemon
    assert sorted(module_daemon.rows("docs")) == [1, 2], "a refused request left something behind"
    assert module_daemon.get("/databases").json()["total"] == 1


def codes(code):
    return (code,) if isinstance(code, str) else code


def check(response, status, code, words=()):
    """The error body as section 1 of the contract has it."""
    assert response.status_code == status, response.text[:500]
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) - {"details"} == {"code", "message", "request_id"}
    assert error["code"] in codes(code), error
    assert response.headers["Content-Type"].split(";")[0] == "application/json"
    assert error["request_id"] == response.headers["X-Request-Id"] != ""
    assert isinstance(error["message"], str) and error["message"]
    for word in words:
        assert word in error["message"], error


def send(daemon, method, path, text, content_type="application/json"):
    data = text if isinstance(text, bytes) else text.encode()
    return daemon.request(method, path, data=data, headers={"Content-Type": content_type})


def raw_error(daemon, method, path, status, code, words=(), body=b""):
    """A request whose path no client library may tidy up."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    answer, = daemon.raw(head.encode() + b"\r\n" + body, [method])
    assert answer.status == status, (answer.status, answer.body)
    error = answer.json()["error"]
    assert error["code"] in codes(code), error
    for word in words:
        assert word in error["message"], error


# ---- JSON ----

VECTORS = "/databases/docs/vectors"


WELL_FORMED = {
    VECTORS: '{"vector_id": 9, "data": [1, -2.5e1, 3], "metadata": {"a": [true, null, "\\u00e9"]}}',
    VECTORS + "/batch": '{"vectors": [{"vector_id": "n", "data": [1, 2, 3]}]}',
    "/databases/docs/search": '{"data": [1, 2, 3], "top_k": 5, "include": ["data"]}',
    "/databases/other": '{"dimension": 3, "distance_metric": "cosine"}',
    "/export": '{"format": "json", "databases": ["docs"]}',
    "/databases/docs/count": "{ }"}


@pytest.mark.parametrize("path", WELL_FORMED)
def test_a_document_that_breaks_off_is_refused(daemon, path):
    """A reader of one pass may say what it missed (a number, an array) instead of invalid_json."""
    text = WELL_FORMED[path]
    for end in range(1, len(text)):
        check(send(daemon, "POST", path, text[:end]), 400,
              ("invalid_json", "invalid_request", "invalid_vector"))


@pytest.mark.parametrize("tail", [" {}", "x", "\0", ",", "]", "}", '""', "/**/"])
@pytest.mark.parametrize("path", WELL_FORMED)
def test_anything_behind_the_document_is_invalid_json(daemon, path, tail):
    check(send(daemon, "POST", path, WELL_FORMED[path] + tail), 400, "invalid_json")


@pytest.mark.parametrize("path, key", [
    (VECTORS, "vector_id"), (VECTORS + "/batch", "vectors"), ("/databases/docs/search", "top_k"),
    ("/databases/other", "dimension"), ("/export", "format")])
@pytest.mark.parametrize("text", [
    "}", "{]", "nul", "/**/{}", "{'a':1}", "{a:1}", '{"a":1 "b":2}', '{"a":01}', '{"a":+1}',
    '{"a":.5}', '{"a":1.}', '{"a":1e}', '{"a":0x1}', '{"a":tru}', '{"a":"\\x"}', '{"a":"\\u12"}',
    '{"a":"\n"}', '{"a":"\\ud800"}', '{"a":"\\udc00\\ud800"}'])
def test_ill_formed_json_is_refused(daemon, path, key, text):
    """A reader of one pass may trip over the kind of a value before its spelling."""
    check(send(daemon, "POST", path, text.replace('"a"', f'"{key}"')), 400,
          ("invalid_json", "invalid_request", "invalid_id"))


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
                                 b"\x80", b"\xe2\x82"])
@pytest.mark.parametrize("form", [
    b'{"vector_id":"%s","data":[1,2,3]}', b'{"vector_id":9,"data":[1,2,3],"metadata":{"a":"%s"}}',
    b'{"vector_id":9,"data":[1,2,3],"metadata":{"%s":1}}', b'{"vector_id":9,"data":[1,2,3]}%s'])
def test_bad_utf8_is_invalid_json(daemon, bad, form):
    check(send(daemon, "POST", VECTORS, form % bad), 400, ("invalid_json", "invalid_id"))


@pytest.mark.parametrize("path, text, word", [
    (VECTORS, '{"vector_id":9,"data":[1,2,3],"vector_id":9}', "vector_id"),
    (VECTORS, '{"vector_id":9,"data":[1,2,3],"data":[1,2,3]}', "data"),
    (VECTORS, '{"vector_id":9,"data":[1,2,3],"metadata":{"twice":1,"twice":1}}', "twice"),
    (VECTORS, '{"vector_id":9,"data":[1,2,3],"metadata":{"in":[{"twice":1,"twice":1}]}}', "twice"),
    (VECTORS, '{"vector_id":9,"data":[1,2,3],"metadata":{"a":1,"\\u0061":1}}', "a"),
    (VECTORS + "/batch", '{"vectors":[{"vector_id":9,"data":[1,2,3],"vector_id":9}]}', "vector_id"),
    (VECTORS + "/batch", '{"vectors":[],"vectors":[]}', "vectors"),
    ("/databases/docs/search", '{"data":[1,2,3],"top_k":1,"top_k":2}', "top_k"),
    ("/databases/other", '{"dimension":1,"dimension":2}', "dimension")])
def test_duplicate_keys_are_refused_by_name(daemon, path, text, word):
    check(send(daemon, "POST", path, text), 400, ("invalid_json", "invalid_request"), [word])


@pytest.mark.parametrize("path, text, word", [
    (VECTORS, '{"vector_id":9,"data":[1,2,3],"colour":1}', "colour"),
    (VECTORS, '{"id":9,"data":[1,2,3]}', "id"),
    (VECTORS + "/batch", '{"vectors":[],"colour":1}', "colour"),
    ("/databases/docs/search", '{"data":[1,2,3],"params":{"colour":1}}', "colour"),
    ("/databases/docs/count", '{"colour":1}', "colour"),
    ("/databases/other", '{"dimension":3,"distance_metric":"cosine","colour":1}', "colour"),
    ("/databases", '{"name":"other","dimension":3,"distance_metric":"cosine","colour":1}', "colour"),
    ("/export", '{"format":"json","colour":1}', "colour")])
def test_unknown_fields_are_refused_by_name(daemon, path, text, word):
    check(send(daemon, "POST", path, text), 400, "invalid_request", [word])


@pytest.mark.parametrize("opening, closing, start", [('{"a":', "}", "1"), ("[", "]", "1"),
                                                     ('{"a":[', "]}", "1")])
def test_nesting_is_limited_to_64(daemon, opening, closing, start):
    """The body itself is level 1, metadata level 2."""
    levels = len(opening.replace('"a":', ""))

    def body(total):
        inner = (total - 2) // levels
        assert 2 + inner * levels == total
        return ('{"vector_id":1,"data":[1,2,3],"metadata":{"m":%s}}'
                % (opening * inner + start + closing * inner))

    assert send(daemon, "POST", VECTORS, body(64)).status_code == 200
    check(send(daemon, "POST", VECTORS, body(64 + levels)), 400,
          ("invalid_json", "invalid_request"), ["64"])
    for deep in (1000, 100000, 1000000):
        check(send(daemon, "POST", VECTORS, body(deep)), 400, ("invalid_json", "invalid_request"))
        check(send(daemon, "POST", VECTORS, "[" * deep), 400, ("invalid_json", "invalid_request"))
        check(send(daemon, "POST", "/databases/other", "[" * deep), 400,
              ("invalid_json", "invalid_request"))


@pytest.mark.parametrize("path", [VECTORS, VECTORS + "/batch", "/databases/docs/search",
                                  "/databases/other"])
def test_a_body_that_is_missing_or_no_object_is_refused(daemon, path):
    for text in ("", "[]", "1", '"x"', "null", "[{}]"):
        check(send(daemon, "POST", path, text), 400, ("invalid_request", "invalid_json"))


# ---- names ----

BAD_NAMES = ["..", "%2e%2e", "%2E%2e", ".", ".hidden", "-dash", "a%2fb", "a%2Fb", "..%2f..%2fetc", "%00",
             "a%00b", "%c3%a9", "a%20b", "a+b", "a:b", "a~b", "x.jvdb", "x.jvdb.y", "a.jvdbx", "%0a",
             "a%0d%0ab", "a" * 129, "a" * 1000, "%ff", "a%5cb", "%25", "a*", "a,b", "a;b", "a@b"]


@pytest.mark.parametrize("method, rest, body", [
    ("POST", "", b'{"dimension":3,"distance_metric":"cosine"}'),
    ("PUT", "", b'{"dimension":3,"distance_metric":"cosine"}'),
    ("GET", "", b""), ("DELETE", "", b""), ("GET", "/vectors/1", b""), ("GET", "/stats", b"")])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_database_name_is_invalid_name(daemon, name, method, rest, body):
    raw_error(daemon, method, f"/api/v1/databases/{name}{rest}", 400, "invalid_name", (), body)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "é", "x.jvdb", "a" * 129, "-a", "a\0b"])
def test_a_bad_name_in_the_body_is_invalid_name(daemon, name):
    check(daemon.post("/databases", {"name": name, "dimension": 3}, None), 400,
          ("invalid_name", "invalid_request", "invalid_json") if "\0" in name else "invalid_name")


@pytest.mark.parametrize("path", ["/api/v1/databases/a%zz", "/api/v1/databases/a%2",
                                  "/api/v1/databases/docs/vectors/a%"])
def test_a_broken_percent_escape_is_refused(daemon, path):
    raw_error(daemon, "GET", path, 400, ("invalid_name", "invalid_id", "invalid_request"))


def test_names_are_case_sensitive(daemon):
    check(daemon.get("/databases/Docs", None), 404, "database_not_found", ["Docs"])


# ---- ids ----

@pytest.mark.parametrize("text", ["-1", "1.5", "1e3", "9223372036854775808", "18446744073709551616",
                                  "1" + "0" * 40, '""', '"%s"' % ("x" * 513), '"%s"' % ("é" * 257),
                                  '"a\\u0000b"', '"a\\nb"', '"\\u0001"', '"\\u007f"', "true", "null",
                                  "[]", "{}", "[1]", "-0.5"])
def test_a_bad_id_is_invalid_id(daemon, text):
    row = '{"vector_id":%s,"data":[1,2,3]}' % text
    check(send(daemon, "POST", VECTORS, row), 400, "invalid_id")
    check(send(daemon, "POST", VECTORS + "/batch", '{"vectors":[%s]}' % row), 400, "invalid_id")
    check(send(daemon, "POST", "/databases/docs/search", '{"vector_id":%s}' % text), 400,
          "invalid_id")


@pytest.mark.parametrize("vector_id", ["%00", "a%00b", "a%0ab", "%7f", "x" * 513, "%ff", "%c3",
                                       "%ed%a0%80"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_bad_id_in_the_path_is_invalid_id(daemon, method, vector_id):
    raw_error(daemon, method, f"/api/v1{VECTORS}/{vector_id}", 400, "invalid_id")


@pytest.mark.parametrize("vector_id", ["3", "-1", "01", "1.0", "9223372036854775808", "nothing"])
def test_a_vector_that_is_not_there_is_named(daemon, vector_id):
    check(daemon.get(f"{VECTORS}/{vector_id}", None), 404, "vector_not_found", [vector_id, "docs"])
    check(daemon.delete(f"{VECTORS}/{vector_id}", None), 404, "vector_not_found", [vector_id])


# ---- vectors ----

@pytest.mark.parametrize("text, code, words", [
    ('{"vector_id":9,"data":[1,2]}', "dimension_mismatch", ["2", "3", "docs"]),
    ('{"vector_id":9,"data":[1,2,3,4]}', "dimension_mismatch", ["4", "3", "docs"]),
    ('{"vector_id":9,"data":[]}', ("dimension_mismatch", "invalid_vector"), []),
    ('{"vector_id":9}', ("invalid_request", "invalid_vector"), ["data"]),
    ('{"vector_id":9,"data":null}', ("invalid_request", "invalid_vector"), ["data"]),
    ('{"vector_id":9,"data":"[1,2,3]"}', ("invalid_request", "invalid_vector"), ["data"]),
    ('{"vector_id":9,"data":{"0":1}}', ("invalid_request", "invalid_vector"), ["data"]),
    ('{"vector_id":9,"data":[1,2,"3"]}', ("invalid_request", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,null]}', ("invalid_request", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,true]}', ("invalid_request", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,[3]]}', ("invalid_request", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,3,]}', ("invalid_json", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,,3]}', ("invalid_json", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1 2 3]}', ("invalid_json", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,03]}', ("invalid_json", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,+3]}', ("invalid_json", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,.3]}', ("invalid_json", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,3.]}', ("invalid_json", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,3e]}', ("invalid_json", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,--3]}', ("invalid_json", "invalid_vector"), []),
    ('{"vector_id":9,"data":[1,2,1e39]}', "invalid_vector", []),
    ('{"vector_id":9,"data":[1,2,NaN]}', "invalid_vector", []),
    ('{"vector_id":9,"data":[1,2,Infinity]}', "invalid_vector", []),
    ('{"vector_id":9,"data":[1,2,-Infinity]}', "invalid_vector", []),
    ('{"vector_id":9,"data":[1,2,3],"data_base64":"AACAPwAAAEAAAEBA"}', "invalid_request", []),
    ('{"vector_id":9,"data_base64":"AACAPwAAAEA="}', ("dimension_mismatch",), ["2", "3"]),
    ('{"vector_id":9,"data_base64":"AACAPwAAAEAAAEB"}', ("invalid_vector", "invalid_request",
                                                         "dimension_mismatch"), []),
    ('{"vector_id":9,"data_base64":"!!!!"}', ("invalid_vector", "invalid_request"), []),
    ('{"vector_id":9,"data_base64":"AACAPwAAAEAAAEBA\\n"}', ("invalid_vector", "invalid_request"), []),
    ('{"vector_id":9,"data_base64":17}', ("invalid_vector", "invalid_request"), ["data_base64"]),
])
def test_a_wrong_vector_is_refused(daemon, text, code, words):
    check(send(daemon, "POST", VECTORS, text), 400, code, words)


# ---- schemas ----

@pytest.mark.parametrize("text, words", [
    ("{}", ["dimension"]), ('{"distance_metric":"cosine"}', ["dimension"]),
    ('{"dimension":0}', ["dimension"]), ('{"dimension":-1}', ["dimension"]),
    ('{"dimension":65537}', ["dimension", "65536"]), ('{"dimension":1.5}', ["dimension"]),
    ('{"dimension":"3"}', ["dimension"]), ('{"dimension":null}', ["dimension"]),
    ('{"dimension":99999999999999999999}', []),
    ('{"dimension":3,"distance_metric":"hamming"}', ["distance_metric", "manhattan"]),
    ('{"dimension":3,"distance_metric":1}', ["distance_metric"]),
    ('{"dimension":3,"distance_metric":"cosine","durability":"never"}', ["durability", "periodic"]),
    ('{"dimension":3,"distance_metric":"cosine","initial_capacity":-1}', ["initial_capacity"]),
    ('{"dimension":3,"distance_metric":"cosine","description":5}', ["description"])])
def test_a_wrong_schema_is_refused_by_name(daemon, text, words):
    for method in ("POST", "PUT"):
        response = send(daemon, method, "/databases/other", text)
        check(response, 400, ("invalid_request", "invalid_json")
              if "9999999" in text else "invalid_request", words)


# ---- routes ----

@pytest.mark.parametrize("path", ["/", "/nothing", "/databases/docs/nothing", "/databases/docs/vectors/1/x",
                                  "/storage", "/storage/nothing", "/v2", "/databases/docs/vectors//1",
                                  "//databases"])
def test_an_unknown_route_is_not_found(daemon, path):
    raw_error(daemon, "GET", "/api/v1" + path, 404, ("not_found",))


def test_an_unknown_database_is_named(daemon):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/stats"), ("GET", "/vectors"),
                         ("GET", "/vectors/1"), ("DELETE", "/vectors/1"), ("POST", "/flush")):
        check(daemon.request(method, "/databases/absent" + path), 404, "database_not_found",
              ["absent"])
    for path, body in (("/vectors", {"vector_id": 1, "data": [1]}), ("/vectors/batch", {"vectors": []}),
                       ("/search", {"data": [1]}), ("/count", {})):
        check(daemon.post("/databases/absent" + path, body, None), 404, "database_not_found",
              ["absent"])


@pytest.mark.parametrize("method, path, allowed", [
    ("DELETE", "/databases", {"GET", "POST"}), ("PUT", "/databases", {"GET", "POST"}),
    ("GET", "/storage/flush", {"POST"}), ("DELETE", "/storage/stats", {"GET"}),
    ("POST", "/storage/stats", {"GET"}), ("GET", "/export", {"POST"}),
    ("GET", "/databases/docs/search", {"POST"}), ("PUT", "/databases/docs/vectors", {"GET", "POST"}),
    ("POST", "/databases/docs/vectors/1", {"GET", "PUT", "DELETE"}),
    ("POST", "/databases/docs/stats", {"GET"}), ("BREW", "/databases/docs", {"GET", "POST", "PUT",
                                                                            "DELETE"})])
def test_a_wrong_method_is_answered_with_allow(daemon, method, path, allowed):
    response = daemon.request(method, path)
    check(response, 405, "method_not_allowed", [method])
    allow = {word.strip() for word in response.headers["Allow"].split(",")}
    assert allowed <= allow and method not in allow
    assert ("HEAD" in allow) == ("GET" in allow)


def test_a_post_without_body_and_length_is_an_empty_body(daemon):
    for path in ("/storage/flush", "/databases/docs/flush", "/databases/docs/count"):
        answer, = daemon.raw(f"POST /api/v1{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), ["POST"])
        assert answer.status == 200, answer.body
    raw_error(daemon, "POST", "/api/v1/databases/other", 400, ("invalid_request", "invalid_json"))


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "text/html",
                                          "application/xml", "application/jsonp", "multipart/form-data"])
def test_another_media_type_is_unsupported(daemon, content_type):
    for path in (VECTORS, "/databases/docs/search", "/databases/other"):
        check(send(daemon, "POST", path, "{}", content_type), 415, "unsupported_media_type",
              [content_type])


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8",
                                          "Application/JSON", "application/json;charset=UTF-8"])
def test_json_may_have_parameters_and_any_case(daemon, content_type):
    assert send(daemon, "POST", "/databases/docs/search", '{"data":[1,2,3]}',
                content_type).status_code == 200


def test_a_body_without_content_type_is_taken_as_json(daemon):
    body = b'{"data":[1,2,3]}'
    answer, = daemon.raw(b"POST /api/v1/databases/docs/search HTTP/1.1\r\nHost: x\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(body) + body, ["POST"])
    assert answer.status == 200


# ---- sizes ----

def test_a_long_body_is_refused_before_it_is_read(daemons):
    daemon = daemons(server_max_body_bytes=65536)
    daemon.create("docs", 3)
    head = ("POST /api/v1/databases/docs/vectors HTTP/1.1\r\nHost: x\r\n"
            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n")
    answer, = daemon.raw((head % 65537).encode(), ["POST"])
    assert answer.status == 413
    assert answer.json()["error"]["code"] == "payload_too_large"
    assert "65536" in answer.json()["error"]["message"]
    body = b'{"vector_id":1,"data":[1,2,3]' + b" " * 65506 + b"}"
    assert len(body) == 65536
    answer, = daemon.raw((head % 65536).encode() + body, ["POST"])
    assert answer.status == 201, answer.body
    daemon.get("/databases/docs/vectors/1")


def test_a_chunked_body_is_limited_too(daemons):
    daemon = daemons(server_max_body_bytes=65536)
    daemon.create("docs", 3)
    head = (b"POST /api/v1/databases/docs/vectors HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    answer, = daemon.raw(head + chunk * 17 + b"0\r\n\r\n", ["POST"])
    assert answer.status == 413 and answer.json()["error"]["code"] == "payload_too_large"


def test_an_endless_chunked_body_is_cut_off_and_takes_no_memory(daemons):
    daemon = daemons(server_max_body_bytes=65536, server_request_timeout_seconds=1)
    daemon.create("docs", 3)
    chunk = b"8000\r\n" + b" " * 32768 + b"\r\n"
    before, sent = daemon.rss_anon(), 0
    with socket.create_connection(("127.0.0.1", daemon.port), REQUEST_S) as sock:
        sock.sendall(b"POST /api/v1/databases/docs/vectors HTTP/1.1\r\nHost: x\r\n"
                     b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(ConnectionError):
            while True:
                sock.sendall(chunk)
                sent += len(chunk)
    print(f"{sent >> 20} MiB were taken before the end")
    if not SANITIZER:
        assert daemon.rss_anon() - before < 8 << 20
    assert daemon.get("/databases/docs").json()["vector_count"] == 0


@pytest.mark.parametrize("target, status", [
    ("/api/v1/databases/" + "a" * 100000, 414), ("/api/v1/databases?prefix=" + "a" * 100000, 414)])
def test_a_very_long_uri_is_refused(daemon, target, status):
    answer, = daemon.raw(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.status == status


def test_a_long_uri_has_an_error_body(daemon):
    target = "/api/v1/databases?prefix=" + "a" * 10000
    answer, = daemon.raw(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.status == 414 and answer.json()["error"]["code"] == "uri_too_long"


def test_very_long_headers_are_refused(daemon):
    answer, = daemon.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100000 + b"\r\n\r\n")
    assert answer.status == 431


# ---- what every answer has ----

def test_the_request_id_of_the_client_is_echoed(daemon):
    for path in ("/databases/docs", "/databases/absent", "/nothing"):
        response = daemon.get(path, None, headers={"X-Request-Id": "mine-42"})
        assert response.headers["X-Request-Id"] == "mine-42"
        if response.status_code != 200:
            assert response.json()["error"]["request_id"] == "mine-42"


def test_every_answer_has_a_request_id_of_its_own(daemon):
    seen = {daemon.get(path, None).headers["X-Request-Id"]
            for path in ("/databases/docs", "/databases/docs", "/databases/absent", "/nothing")}
    assert len(seen) == 4 and "" not in seen


def test_a_request_id_cannot_forge_headers_or_logs(daemon):
    for evil in ("a" * 1000, "x\x01y", "<script>", 'q"q'):
        response = daemon.get("/nothing", 404, headers={"X-Request-Id": evil})
        assert json.loads(response.text)["error"]["request_id"] == response.headers["X-Request-Id"]
        assert len(response.headers["X-Request-Id"]) <= 128
        assert "\x01" not in response.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/databases", "/databases/docs", "/databases/docs/stats",
                                  "/databases/docs/vectors", "/databases/docs/vectors/1",
                                  "/storage/stats", "/databases/absent", "/nothing"])
def test_head_answers_like_get_without_a_body(daemon, path):
    get, head = daemon.get(path, None), daemon.request("HEAD", path)
    assert head.status_code == get.status_code
    assert head.content == b""
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert "X-Request-Id" in head.headers
    assert daemon.get("/databases/docs").status_code == 200  # the connection is still in step


@pytest.mark.parametrize("path", ["/databases/", "/databases/docs/", "/databases/docs/stats/",
                                  "/databases/docs/vectors/", "/databases/docs/vectors/1/",
                                  "/storage/stats/"])
def test_a_trailing_slash_is_tolerated(daemon, path):
    daemon.get(path)
    daemon.get("/health/", root=True)


@pytest.mark.parametrize("head", [
    "Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length: 2\r\nContent-Length: 2\r\n",
    "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "Content-Length: -1\r\n",
    "Content-Length: abc\r\n"])
def test_a_body_of_two_lengths_is_refused(daemon, head):
    """Otherwise a proxy and the daemon may disagree on where the next request begins."""
    answer, = daemon.raw(f"POST /api/v1/databases/docs/count HTTP/1.1\r\nHost: x\r\n"
                         f"Content-Type: application/json\r\n{head}\r\n{{}}".encode(), ["POST"])
    if "Content-Length: 2\r\nContent-Length: 2" in head:
        assert answer.status in (200, 400)
    else:
        assert answer.status in (400, 413)
