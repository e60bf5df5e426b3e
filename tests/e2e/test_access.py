"""Who may do what: every route of api/routes.def with every kind of key."""
import hashlib
import json
import re
import socket
import statistics
import time

import pytest

from harness import REQUEST_S, SANITIZER, SLOW, TOP

ROUTE = re.compile(r'^ROUTE\((\w+), +(\w+), +"([^"]+)", +(\w+), +(\w+), +(\w+),', re.M)
ROUTES = [(method, ("/api/v1" if base == "V1" else "") + pattern, scope)
          for method, base, pattern, _, scope, _ in ROUTE.findall((TOP / "api/routes.def").read_text())]
# A route outside the base path is there, too; HEAD is wherever GET is.
ROUTES += [(method, "/api/v1" + path, scope) for method, path, scope in ROUTES
           if not path.startswith("/api/v1")]
ROUTES += [("HEAD", path, scope) for method, path, scope in ROUTES if method == "GET"]

RANKS = {"NONE": 0, "READ": 1, "WRITE": 2, "ADMIN": 3}
KEYS = {"reader": ("read", ["*"]), "writer": ("write", ["*"]), "ops": ("admin", ["*"]),
        "mine": ("admin", ["mine"]), "theirs": ("admin", ["theirs"])}
HOLDERS = ["no key", "wrong", *KEYS]


def secret(holder):
    return f"{holder}-0123456789-0123456789"


def headers_of(holder):
    return {} if holder == "no key" else {"Authorization": "Bearer " + secret(holder)}


def write_keys(path):
    path.write_text(json.dumps({"keys": [
        {"name": name, "scope": scope, "databases": databases,
         "sha256": hashlib.sha256(secret(name).encode()).hexdigest()}
        for name, (scope, databases) in KEYS.items()]}))
    path.chmod(0o600)
    return path


@pytest.fixture
def guarded(daemons, tmp_path):
    return daemons(security_api_keys_file=write_keys(tmp_path / "keys.json"))


def wanted(holder, path, scope):
    """401, 403, or None: whatever there is behind the keys."""
    if scope == "NONE":
        return None
    if holder not in KEYS:
        return 401
    if RANKS[KEYS[holder][0].upper()] < RANKS[scope]:
        return 403
    return None if KEYS[holder][1] == ["*"] or (holder == "mine" and "{db}" in path) else 403


def test_the_table_of_routes_was_read():
    assert len(ROUTES) > 40
    assert {method for method, _, _ in ROUTES} == {"GET", "HEAD", "POST", "PUT", "DELETE"}
    assert {scope for _, _, scope in ROUTES} == set(RANKS)
    text = (TOP / "api/routes.def").read_text()
    assert len(ROUTE.findall(text)) == len(re.findall(r"(?m)^ROUTE\(", text))


def test_every_route_takes_the_keys_it_says_and_no_others(guarded):
    """First all that is refused, which must change nothing; then what is behind the keys."""
    ops = headers_of("ops")
    for name in ("mine", "theirs"):
        guarded.put(f"/databases/{name}", {"dimension": 1}, 201, headers=ops)
        guarded.post(f"/databases/{name}/vectors", {"vector_id": 1, "data": [1]}, 201, headers=ops)
    before = guarded.get("/databases/mine", headers=ops).json()
    seen, count = set(), {401: 0, 403: 0, None: 0}
    for method, pattern, scope in ROUTES:
        path = pattern.replace("{db}", "mine").replace("{id}", "1")
        for holder in HOLDERS:
            status = wanted(holder, pattern, scope)
            if status is None:
                continue
            count[status] += 1
            response = guarded.request(method, path, root=True, headers=headers_of(holder))
            where = (method, path, holder, response.status_code, response.text[:200])
            assert response.status_code == status, where
            assert ("WWW-Authenticate" in response.headers) == (status == 401), where
            if method == "HEAD":
                continue
            error = response.json()["error"]
            assert error["code"] == {401: "unauthorized", 403: "forbidden"}[status], where
            if status == 401:
                seen.add((error["message"], len(response.text) - len(error["request_id"]),
                          tuple(sorted(set(response.headers) - {"Date", "X-Request-Id"}))))
    assert len(seen) == 1, seen  # a missing key and a wrong one look the same, wherever
    assert guarded.get("/databases/mine", headers=ops).json() == before
    guarded.delete("/databases/mine", headers=ops)
    for method, pattern, scope in ROUTES:
        path = pattern.replace("{db}", "mine").replace("{id}", "1")
        for holder in HOLDERS:
            if wanted(holder, pattern, scope) is not None:
                continue
            count[None] += 1
            response = guarded.request(method, path, root=True, headers=headers_of(holder))
            where = (method, path, holder, response.status_code, response.text[:200])
            assert response.status_code in (200, 400, 404), where
            if method != "HEAD" and response.status_code != 200:
                assert response.json()["error"]["code"] in ("database_not_found", "invalid_request",
                                                            "invalid_json"), where
    print(f"{len(ROUTES)} routes, {len(HOLDERS)} holders: {count[401]} times 401, {count[403]} times"
          f" 403, {count[None]} let in")


@pytest.mark.parametrize("target", [
    "//api/v1/databases", "/api//v1/databases", "/api/v1//databases", "/api/v1/./databases",
    "/api/v1/health/../databases", "/health/../api/v1/databases", "/API/V1/databases",
    "/api/v1/Databases", "/api/v1/databases%00", "/api/v1/databases%2f", "/api%2fv1/databases",
    "/health%2f..%2fapi/v1/databases", "/api/v1/databases;x=1", "/api/v1/databases#health",
    "http://x/api/v1/databases", "*", "/health?/../api/v1/databases"])
def test_no_spelling_of_a_path_goes_round_the_keys(guarded, target):
    guarded.put("/databases/mine", {"dimension": 1}, 201, headers=headers_of("ops"))
    for method in ("GET", "DELETE"):
        path = target if method == "GET" else target.replace("databases", "databases/mine")
        answer, = guarded.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer.status in (400, 401, 404, 405) or (answer.status == 200 and
                                                         answer.json() == {"status": "ok"}), answer.body
        assert b"mine" not in answer.body or answer.status != 200
    guarded.get("/databases/mine", headers=headers_of("ops"))


def test_a_key_counts_in_the_headers_alone_and_the_first_of_each(guarded):
    key = secret("ops")
    for head in (f"Authorization: Bearer {secret('wrong')}\r\nX-API-Key: {key}",
                 f"X-API-Key: {secret('wrong')}\r\nX-API-Key: {key}", f"Cookie: key={key}",
                 f"Authorization: {key}", f"Proxy-Authorization: Bearer {key}",
                 f"Authorization: Bearer {key},x", f"X-API-Key: {key.upper()}"):
        answer, = guarded.raw(f"GET /api/v1/databases HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        assert answer.status == 401, head
    for query in (f"api_key={key}", f"key={key}", f"access_token={key}"):
        guarded.get(f"/databases?{query}", 401)


def test_what_needs_an_admin_key_leaves_an_audit_line(guarded):
    guarded.put("/databases/mine", {"dimension": 1}, 201,
                headers={**headers_of("ops"), "X-Request-Id": "mine-1"})
    guarded.delete("/databases/mine", 403, headers={**headers_of("theirs"), "X-Request-Id": "mine-2"})
    guarded.delete("/databases/mine", 401, headers={**headers_of("wrong"), "X-Request-Id": "mine-3"})
    guarded.delete("/databases/mine", 200, headers={**headers_of("mine"), "X-Request-Id": "mine-4"})
    guarded.stop()
    lines = [line[line.index("audit:"):] for line in guarded.log().splitlines() if "audit:" in line]
    assert lines == [
        "audit: PUT /api/v1/databases/mine 201, key ops, from 127.0.0.1 [request mine-1]",
        "audit: DELETE /api/v1/databases/mine 403, key theirs, from 127.0.0.1 [request mine-2]",
        "audit: DELETE /api/v1/databases/mine 200, key mine, from 127.0.0.1 [request mine-4]"]


def timings(port, key, rounds):
    """Medians, in ns, of refusals of a missing, a wrong and a nearly right key, in turns."""
    kinds = {"missing": "", "wrong": f"X-API-Key: {'x' * len(key)}\r\n",
             "nearly right": f"X-API-Key: {key[:-1]}x\r\n"}
    # All requests have the same length, or the kernel and the parser would tell them apart.
    longest = max(map(len, kinds.values()))
    data = {kind: ("GET /api/v1/databases HTTP/1.1\r\nHost: x\r\n" + head + "X-Padding: "
                   + "p" * (longest - len(head)) + "\r\n\r\n").encode() for kind, head in kinds.items()}
    times = {kind: [] for kind in kinds}
    with socket.create_connection(("127.0.0.1", port), REQUEST_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        order = list(kinds)
        for i in range(rounds):
            for kind in order:
                began = time.perf_counter_ns()
                sock.sendall(data[kind])
                answer = sock.recv(65536)
                times[kind].append(time.perf_counter_ns() - began)
                assert answer.startswith(b"HTTP/1.1 401 ") and answer.endswith(b"}\n"), answer
            order.append(order.pop(0))  # nobody is always behind the same one
    return {kind: statistics.median(t) for kind, t in times.items()}


@pytest.mark.skipif(not SLOW or SANITIZER, reason="JADEVECTORDB_SLOW=1: it measures microseconds")
def test_the_time_of_a_refusal_does_not_tell_how_wrong_a_key_is(guarded):
    medians = timings(guarded.port, secret("ops"), 20000)
    print({kind: f"{ns / 1000:.2f} us" for kind, ns in medians.items()})
    assert max(medians.values()) - min(medians.values()) < 1000


def test_a_key_that_asks_too_often_gets_429_and_hurts_no_other(daemons, tmp_path):
    daemon = daemons(security_api_keys_file=write_keys(tmp_path / "keys.json"),
                     security_rate_limit_per_key=5)
    replies = [daemon.get("/databases", None, headers=headers_of("reader")) for _ in range(40)]
    refused = [r for r in replies if r.status_code == 429]
    assert [r.status_code for r in replies[:5]] == [200] * 5 and len(refused) >= 5
    for reply in refused:
        assert reply.json()["error"]["code"] == "rate_limited"
        assert int(reply.headers["Retry-After"]) >= 1
    daemon.get("/databases", 200, headers=headers_of("writer"))
    daemon.get("/databases", 401, headers=headers_of("wrong"))
    daemon.get("/health", 200, root=True)
