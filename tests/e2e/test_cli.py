"""jadevectordb-cli against the daemon, and against a server that misbehaves."""
import hashlib
import http.server
import json
import os
import pty
import re
import signal
import subprocess
import threading

import numpy as np
import pytest

from harness import CLI, bits, clean_environment, random_rows

DUMP = {"databases": [{"name": "docs", "schema": {"dimension": 2, "distance_metric": "euclidean"},
                       "vectors": [{"id": 1, "data": [0.1, 0.2], "metadata": {"a": 1}}]}]}


def run(url, *words, stdin="", env=None, cwd=None):
    return subprocess.run([str(CLI), *map(str, words)], input=stdin, capture_output=True, text=True,
                          env=clean_environment({"JADEVECTORDB_URL": url, **(env or {})}),
                          timeout=60, check=False, cwd=cwd)


def good(url, *words, **kwargs):
    done = run(url, *words, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def failed(status, url, *words, **kwargs):
    done = run(url, *words, **kwargs)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr


# ---- with the daemon ----

def test_commands_lead_through_the_life_of_a_database(daemon):
    url = daemon.url
    assert "docs" in good(url, "create", "docs", "--dimension", 3, "--metric", "euclidean")
    assert "already" in failed(1, url, "create", "docs", "--dimension", 3) \
        or "database_exists" in failed(1, url, "create", "docs", "--dimension", 3)
    good(url, "create", "docs", "--dimension", 3, "--metric", "euclidean", "--if-missing")
    good(url, "put", "docs", 1, "--data", "[1, 2, 3]", "--metadata", '{"lang": "en"}')
    good(url, "put", "--database", "docs", "--id", "a/b c", "--data", "4,5,6")
    good(url, "put", "docs", stdin='{"vector_id": 9, "data": [7, 8, 9]}')
    assert "stored vector" in good(url, "put", "docs", "--data", "-1 -2 -3")

    lines = good(url, "list").splitlines()
    assert lines[0].split() == ["NAME", "DIMENSION", "METRIC", "VECTORS"]
    assert lines[1].split() == ["docs", "3", "euclidean", "4"]
    assert json.loads(good(url, "list", "--json"))["databases"][0]["name"] == "docs"

    one = json.loads(good(url, "get", "docs", 1, "--json"))
    assert one["data"] == [1, 2, 3] and one["metadata"] == {"lang": "en"}
    assert json.loads(good(url, "--json", "get", "docs", "a/b c"))["vector_id"] == "a/b c"
    assert '"lang"' in good(url, "get", "docs", 1)

    table = good(url, "query", "docs", "--data", "1,2,3", "--top-k", 2).splitlines()
    assert table[0].split() == ["ID", "SCORE", "DISTANCE", "METADATA"]
    assert table[1].split()[:3] == ["1", "1", "0"] and len(table) == 3
    hits = json.loads(good(url, "query", "docs", "--id", 1, "--include", "data", "--json"))
    assert [hit["vector_id"] for hit in hits["results"]][0] == "a/b c"
    assert "metadata" not in hits["results"][0] and hits["results"][0]["data"] == [4, 5, 6]
    told = good(url, "query", "docs", "--id", 1, "--exact", "--ef", 50, "--recall", 0.9, "--explain")
    pairs = dict(line.split(None, 1) for line in told.split("\n\n")[1].splitlines())
    assert pairs["strategy"] == "exact" and pairs["expected_recall"] == "1"
    assert float(pairs["stages.search_us"]) > 0 and pairs["candidates"] == "4"

    assert "vector_count" in good(url, "stats", "docs")
    assert json.loads(good(url, "stats", "--json"))["total_vectors"] == 4
    good(url, "delete", "docs", "--id", "a/b c")
    assert "vector_not_found" in failed(1, url, "get", "docs", "a/b c")
    good(url, "delete", "--database", "docs")
    assert "database_not_found" in failed(1, url, "stats", "docs")

    good(url, "create", "plain", "--dimension", 3, "--index", "hnsw", "--quantization", "none")
    info = daemon.get("/databases/plain").json()
    assert info["index"] == {"type": "hnsw"} and info["quantization"] == "none"
    assert "hnsw, flat or auto" in failed(1, url, "create", "x", "--dimension", 3, "--index", "ivf")


def test_digits_reach_the_server_as_they_were_typed(daemon):
    # Through a double this would be rounded twice, to the other neighbour.
    text = "1.00000017881393432617187499"
    good(daemon.url, "create", "exact", "--dimension", 1)
    good(daemon.url, "put", "exact", 1, "--data", text)
    data = daemon.get("/databases/exact/vectors/1").json()["data"]
    assert bits(data) == np.float32(1.00000011920928955078125).tobytes()


def test_a_key_that_keygen_makes_opens_the_server_for_what_it_says(daemons, tmp_path):
    """Its entry is taken as printed; the key is nowhere in it."""
    made = {name: json.loads(good("", "keygen", name, scope, *more, "--json"))
            for name, scope, more in (("ops", "admin", []), ("Größe \"1\"", "read", ["--databases", "a,b"]))}
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [m["entry"] for m in made.values()]}))
    keys.chmod(0o600)
    (ops, reader) = (m["key"] for m in made.values())
    assert ops != reader and ops not in keys.read_text()
    for key in (ops, reader):
        assert re.fullmatch(r"jvdb_[A-Za-z0-9_-]{43}", key)
    assert made["ops"]["entry"]["databases"] == ["*"]
    daemon = daemons(security_api_keys_file=keys)
    for name in ("a", "c"):
        good(daemon.url, "create", name, "--dimension", 2, env={"JADEVECTORDB_API_KEY": ops})
    good(daemon.url, "stats", "a", env={"JADEVECTORDB_API_KEY": reader})
    assert "forbidden" in failed(1, daemon.url, "stats", "c", env={"JADEVECTORDB_API_KEY": reader})
    assert "forbidden" in failed(1, daemon.url, "delete", "a", env={"JADEVECTORDB_API_KEY": reader})
    assert "unauthorized" in failed(1, daemon.url, "stats", "a")


def test_keygen_for_people_shows_the_key_and_the_entry():
    key, entry = (line.split(None, 1) for line in good("", "keygen", "ops", "write").splitlines())
    assert key[0] == "key" and entry[0] == "entry"
    assert json.loads(entry[1])["sha256"] == hashlib.sha256(key[1].encode()).hexdigest()


@pytest.mark.parametrize("words, says", [
    (["ops"], "--scope"), (["ops", "root"], "read, write or admin"), (["", "read"], "--name"),
    (["ops", "read", "--databases", "a,,b"], "--databases"),
    (["ops", "read", "--databases", "a,../b"], "--databases"), (["o" * 129, "read"], "128")])
def test_keygen_makes_no_key_that_the_server_would_refuse(words, says):
    assert says in failed(2, "", "keygen", *words)


@pytest.fixture
def filled(daemon):
    rows = random_rows(5, 500, 16)
    for name in ("one", "two"):
        daemon.create(name, 16)
        daemon.put_rows(name, range(500), rows, [{"i": i, "ä": "\n"} for i in range(500)])
    daemon.create("empty", 4)
    return daemon


def content(daemon):
    return {name: daemon.rows(name) for name in ("one", "two", "empty")}


def test_the_guides_export_and_import_bring_everything_back(filled, daemons, tmp_path):
    before = content(filled)
    good(filled.url, "export", "--format", "json", "--output", "./databases.json", cwd=tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["databases.json"]
    dump = json.loads((tmp_path / "databases.json").read_text())
    assert [db["name"] for db in dump["databases"]] == ["empty", "one", "two"]

    other = daemons()
    good(other.url, "import", "--format", "json", "--input", tmp_path / "databases.json",
         "--batch-size", 100)
    assert content(other) == before


def test_one_database_goes_out_and_comes_back_under_another_name(filled, tmp_path):
    dump = tmp_path / "db.json"
    good(filled.url, "export", "--database", "one", "--output", dump)
    good(filled.url, "import", "--database", "three", "--input", dump)
    assert filled.rows("three") == filled.rows("one")
    filled.delete("/databases/one")
    good(filled.url, "import", "--database", "one", "--input", dump)
    assert filled.rows("three") == filled.rows("one")


def test_dumps_pass_through_pipes(filled, daemons):
    dump = good(filled.url, "export", "--output", "-")
    other = daemons()
    good(other.url, "import", "--input", "-", stdin=dump)
    assert content(other) == content(filled)


def test_a_broken_dump_is_refused_with_the_servers_words(daemon, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text('{"databases": [{"name": "docs"')
    assert "HTTP 400" in failed(1, daemon.url, "import", "--input", broken)
    assert "HTTP 404" in failed(1, daemon.url, "export", "--database", "none", "--output",
                                tmp_path / "none.json")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["broken.json"]


# ---- with a server of our own, or none ----

class Stub(http.server.ThreadingHTTPServer):
    """Answers every request with what `answer(handler)` writes; notes what it was asked."""

    def __init__(self, answer):
        self.requests = []
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self):
                length = self.headers.get("Content-Length")
                body = self.rfile.read(int(length)) if length else b""
                stub.requests.append((self.command, self.path, dict(self.headers), body))
                answer(self)

            do_GET = do_POST = do_DELETE = serve

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.daemon_threads = True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


def reply(status, body, kind="application/json"):
    def answer(handler):
        raw = body.encode()
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)
    return answer


def half_a_dump(handler):
    """Begin a chunked answer and break off."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"10\r\n" + b'{"databases": [{' + b"\r\n")
    handler.wfile.flush()
    handler.close_connection = True


@pytest.fixture
def stubs():
    made = []

    def make(answer):
        made.append(Stub(answer))
        return made[-1]

    yield make
    for stub in made:
        stub.shutdown()
        stub.server_close()


def test_an_export_that_breaks_off_leaves_the_old_file_alone(stubs, tmp_path):
    target = tmp_path / "dump.json"
    target.write_text("old")
    message = failed(1, stubs(half_a_dump).url, "export", "--output", target)
    assert "broke off" in message
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["dump.json"]


def test_an_interrupted_export_leaves_nothing(stubs, tmp_path):
    begun = threading.Event()
    over = threading.Event()

    def endless(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"2\r\n{}\r\n")
        handler.wfile.flush()
        begun.set()
        over.wait(30)

    url = stubs(endless).url
    process = subprocess.Popen([str(CLI), "export", "--output", str(tmp_path / "dump.json")],
                               stderr=subprocess.PIPE, text=True,
                               env=clean_environment({"JADEVECTORDB_URL": url}))
    assert begun.wait(30)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    over.set()
    assert process.returncode == 130 and "interrupted" in message
    assert os.listdir(tmp_path) == []


def test_an_export_replaces_a_file_and_follows_a_link(stubs, tmp_path):
    url = stubs(reply(200, json.dumps(DUMP))).url
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    good(url, "export", "--output", link)
    assert link.is_symlink() and json.loads(real.read_text()) == DUMP
    assert json.loads(good(url, "export", "--output", "/dev/stdout")) == DUMP
    summary = json.loads(good(url, "export", "--output", real, "--json"))
    assert summary == {"output": str(real), "bytes": len(json.dumps(DUMP))}


def test_requests_are_what_the_contract_says(stubs, tmp_path):
    stub = stubs(reply(200, "{}"))
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps(DUMP))
    good(stub.url, "export", "--output", tmp_path / "all.json")
    good(stub.url, "export", "--output", tmp_path / "one.json", "--database", "a.b")
    good(stub.url, "import", "--input", dump)
    good(stub.url, "import", "--input", dump, "--database", "docs")
    good(stub.url + "/", "delete", "docs", "..")
    good(stub.url, "get", "d/../x", "ä", env={"JADEVECTORDB_API_KEY": "secret"})
    seen = [(method, path) for method, path, _, _ in stub.requests]
    assert seen == [("POST", "/api/v1/export"), ("GET", "/api/v1/databases/a.b/export?format=json"),
                    ("POST", "/api/v1/import"), ("POST", "/api/v1/databases/docs/restore"),
                    ("DELETE", "/api/v1/databases/docs/vectors/%2E%2E"),
                    ("GET", "/api/v1/databases/d%2F..%2Fx/vectors/%C3%A4")]
    assert json.loads(stub.requests[0][3]) == {"format": "json"}
    assert stub.requests[2][3] == dump.read_bytes()
    assert all(headers["Content-Type"] == "application/json"
               for method, _, headers, _ in stub.requests if method == "POST")
    assert stub.requests[5][2]["X-API-Key"] == "secret"


def test_an_import_tells_what_was_stored(stubs, tmp_path):
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps(DUMP))
    answer = {"imported": 3, "databases": [{"name": "docs", "vectors": 3, "created": True, "lsn": 1}]}
    stub = stubs(reply(200, json.dumps(answer)))
    lines = good(stub.url, "import", "--input", dump).splitlines()
    assert [line.split() for line in lines] == [["NAME", "VECTORS", "CREATED"], ["docs", "3", "true"]]
    assert json.loads(good(stub.url, "import", "--input", dump, "--json")) == answer

    error = {"error": {"code": "invalid_vector", "message": "vector 1000 is bad", "request_id": "r",
                       "details": {"imported": 1000}}}
    message = failed(1, stubs(reply(400, json.dumps(error))).url, "import", "--input", dump)
    assert "vector 1000 is bad (invalid_vector, HTTP 400); the 1000 vectors before it are" in message


def test_errors_show_message_and_code_and_cannot_steer_the_terminal(stubs):
    body = json.dumps({"error": {"code": "invalid_name", "message": "no \033[2J name",
                                 "request_id": "r"}})
    stub = stubs(reply(400, body))
    message = failed(1, stub.url, "list")
    assert message == "jadevectordb-cli: no \\x1b[2J name (invalid_name, HTTP 400)\n"
    assert json.loads(failed(1, stub.url, "list", "--json")) == json.loads(body)


def test_another_kind_of_server_is_recognized(stubs):
    assert "HTTP 502" in failed(1, stubs(reply(502, "<html>")).url, "list")
    assert "not JSON" in failed(1, stubs(reply(200, "<html>")).url, "list")
    assert "HTTP 302" in failed(1, stubs(reply(302, "")).url, "list")


def test_no_server_is_said_so():
    message = failed(1, "http://127.0.0.1:1", "list")
    assert "nothing listens at http://127.0.0.1:1" in message
    assert json.loads(failed(1, "http://127.0.0.1:1", "list", "--json"))["error"]["code"] == "client"


@pytest.mark.parametrize("words, part", [
    ([], "usage:"),
    (["exprot"], "did you mean export?"),
    (["export"], "--output FILE is missing"),
    (["export", "--ouput", "x"], "did you mean --output?"),
    (["export", "--output", "x.json.gz"], ".gz files are not supported"),
    (["export", "--output", "x", "--format", "binary"], "only json"),
    (["import", "--input", "x.zst"], ".zst files are not supported"),
    (["delete", "docs", "--id", ""], "--id is empty"),
    (["put", "docs", "--data", "1,x"], "number 2"),
    (["put", "docs", "--data", "1", "--metadata", "{}, \"x\": 1"], "--metadata"),
    (["put", "docs", "--data", "1", "--metadata", "[]"], "must be a JSON object"),
    (["query", "docs"], "either --data or --id"),
    (["query", "docs", "--id", "1", "--top-k", "0"], "from 1 to 10000"),
    (["query", "docs", "--id", "1", "--include", "vectors"], "--include"),
    (["query", "docs", "--id", "1", "--ef", "0"], "from 1 to 32768"),
    (["query", "docs", "--id", "1", "--recall", "0.3"], "from 0.5 to 1"),
    (["query", "docs", "--id", "1", "--recall", "0.9x"], "from 0.5 to 1"),
    (["query", "docs", "--id", "1", "--recall", "nan"], "from 0.5 to 1"),
    (["query", "docs", "--id", "1", "--exact=yes"], "no value"),
    (["create", "docs", "--dimension", "65537"], "from 1 to 65536"),
    (["list", "--url", "ftp://x"], "ftp://x"),
])
def test_a_wrong_command_line_exits_with_2(words, part):
    assert part in failed(2, "http://127.0.0.1:1", *words)


def test_help_and_version_need_no_server():
    names = ["export", "import", "stats", "list", "create", "delete", "get", "put", "query"]
    text = good("", "--help")
    for name in names:
        assert f"  {name} " in text
        assert good("", name, "--help") == good("", "help", name)
        assert f"jadevectordb-cli {name}" in good("", name, "--help")
    version = good("", "--version").split()
    assert version[0] == "jadevectordb-cli" and version[1].count(".") == 2


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(stubs, tmp_path):
    stub = stubs(reply(200, "{}"))
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps(DUMP))
    done = run(stub.url, "import", "--input", dump)
    assert done.stderr.startswith("imported 100%, ") and done.stderr.count("\n") == 1
    assert "\033" not in done.stderr

    master, slave = pty.openpty()
    subprocess.run([str(CLI), "import", "--input", str(dump)], stderr=slave, check=True, timeout=60,
                   stdout=subprocess.DEVNULL, env=clean_environment({"JADEVECTORDB_URL": stub.url}))
    os.close(slave)
    shown = os.read(master, 4096).decode()
    os.close(master)
    assert "[" + "#" * 30 + "] 100%" in shown and "\r" in shown
