"""Vectors: write, read, replace, delete; ids and metadata."""
import base64
import json

import numpy as np
import pytest

from harness import b64, random_rows, run_threads, scaled


@pytest.fixture
def db(any_daemon):
    any_daemon.create("v", 3)
    return any_daemon


def at(vector_id):
    return f"/databases/v/vectors/{vector_id}"


def test_a_write_answers_201_when_new_and_200_when_replaced(db):
    first = db.post("/databases/v/vectors", {"vector_id": 1, "data": [1, 2, 3]}, 201).json()
    second = db.post("/databases/v/vectors", {"vector_id": 1, "data": [4, 5, 6]}, 200).json()
    assert first["vector_id"] == second["vector_id"] == 1
    assert 0 < first["lsn"] < second["lsn"]
    row = db.get(at(1)).json()
    assert row == {"vector_id": 1, "data": [4, 5, 6], "metadata": {}, "version": second["lsn"]}


def test_put_takes_the_id_from_the_path(db):
    db.put(at("word"), {"data": [1, 2, 3], "metadata": {"a": 1}}, 201)
    db.put(at("word"), {"data": [1, 2, 4]}, 200)
    db.put(at(5), {"data": [1, 2, 5]}, 201)
    assert db.get(at("word")).json()["data"] == [1, 2, 4]
    assert db.get(at("word")).json()["metadata"] == {}
    assert db.get(at(5)).json()["vector_id"] == 5


def test_without_an_id_the_server_assigns_the_next_free_integer(db):
    given = [db.post("/databases/v/vectors", {"data": [i, 0, 0]}, 201).json()["vector_id"]
             for i in range(3)]
    assert all(isinstance(i, int) for i in given) and len(set(given)) == 3
    assert given == sorted(given)
    db.post("/databases/v/vectors", {"vector_id": 1000, "data": [1, 2, 3]}, 201)
    later = db.post("/databases/v/vectors", {"data": [9, 9, 9]}, 201).json()["vector_id"]
    assert later not in given + [1000]
    assert db.get(at(later)).json()["data"] == [9, 9, 9]
    assert db.count("v") == 5


def test_assigned_ids_are_unique_among_concurrent_writers(db):
    given = []

    def client():
        for _ in range(scaled(40, 5)):
            reply = db.request("POST", "/databases/v/vectors", 201, json={"data": [1, 2, 3]})
            given.append(reply.json()["vector_id"])

    run_threads([client] * 4)
    assert len(given) == len(set(given)) == db.count("v")


def test_the_decimal_text_of_an_integer_is_that_integer(db):
    db.post("/databases/v/vectors", {"vector_id": "17", "data": [1, 2, 3]}, 201)
    db.post("/databases/v/vectors", {"vector_id": 17, "data": [4, 5, 6]}, 200)
    assert db.get(at(17)).json()["vector_id"] == 17
    for text in ("017", "+17", "17.0", "-17", " 17", "1e1", "9223372036854775808", "--", "0x11"):
        db.post("/databases/v/vectors", {"vector_id": text, "data": [7, 8, 9]}, 201)
        listed = db.get("/databases/v/vectors?limit=1000").json()["vectors"]
        assert text in [row["vector_id"] for row in listed]
        db.delete("/databases/v/vectors/" + "".join(f"%{b:02X}" for b in text.encode()))
    assert db.count("v") == 1


@pytest.mark.parametrize("vector_id", [
    0, 1, 2**53, 2**53 + 1, 2**63 - 1, "a", "a b", "a/b", "../x", "..", ".", "é", "日本語", "🎉", "%41",
    "a+b", "a?b=c", "batch", "get", "delete", "a#b", "\"", "\\", "x" * 512, "é" * 256, "null", "true", "\u00a0", "\ufeff"])
def test_every_id_comes_back_as_it_was_sent(module_daemon, vector_id):
    daemon = module_daemon
    daemon.put("/databases/ids", {"dimension": 1, "distance_metric": "euclidean"})
    body = {"vector_id": vector_id, "data": [1], "metadata": {"of": str(vector_id)}}
    daemon.post("/databases/ids/vectors", body, 201)
    text = str(vector_id).encode()
    path = "/api/v1/databases/ids/vectors/" + "".join(f"%{b:02x}" for b in text)
    answer, = daemon.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.status == 200, answer.body
    assert answer.json()["vector_id"] == vector_id
    assert answer.json()["metadata"] == {"of": str(vector_id)}
    found = daemon.search("ids", [1], 1000)
    assert vector_id in [r["vector_id"] for r in found]
    answer, = daemon.raw(f"DELETE {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(),
                         ["DELETE"])
    assert answer.status == 200
    assert daemon.count("ids") == 0


def test_delete_answers_404_the_second_time(db):
    db.post("/databases/v/vectors", {"vector_id": 1, "data": [1, 2, 3]})
    assert db.delete(at(1)).json()["lsn"] > 0
    for method in ("DELETE", "GET"):
        error = db.request(method, at(1), 404).json()["error"]
        assert error["code"] == "vector_not_found"
        assert "1" in error["message"] and "v" in error["message"]
    db.post("/databases/v/vectors", {"vector_id": 1, "data": [3, 2, 1]}, 201)
    assert db.get(at(1)).json()["data"] == [3, 2, 1]


def test_lsns_grow_with_every_write_and_version_is_the_lsn(db):
    lsns = []
    for i in range(5):
        lsns.append(db.post("/databases/v/vectors", {"vector_id": i, "data": [1, 2, 3]}).json()["lsn"])
        lsns.append(db.put_rows("v", [10, 11], [[1, 2, 3]] * 2)["lsn"])
        assert db.get(at(10)).json()["version"] == lsns[-1] == db.get(at(11)).json()["version"]
        lsns.append(db.delete(at(i)).json()["lsn"])
    assert lsns == sorted(set(lsns))


def test_the_etag_is_the_version(db):
    lsn = db.post("/databases/v/vectors", {"vector_id": 1, "data": [1, 2, 3]}).json()["lsn"]
    assert db.get(at(1)).headers["ETag"].strip('"') == str(lsn)


def test_an_id_twice_in_a_batch_is_created_once_and_replaced_once(db):
    rows = [{"vector_id": 7, "data": [1, 1, 1]}, {"vector_id": 7, "data": [2, 2, 2]}]
    answer = db.post("/databases/v/vectors/batch", {"vectors": rows}, 200).json()
    assert (answer["count"], answer["created"], answer["replaced"]) == (2, 1, 1)
    assert db.get(at(7)).json()["data"] == [2, 2, 2]


@pytest.mark.parametrize("header", ["If-Match", "Idempotency-Key"])
def test_a_condition_that_would_not_be_kept_is_refused_by_name(db, header):
    db.put(at(1), {"data": [1, 2, 3]}, 201)
    for method, body in (("PUT", b'{"data": [7, 8, 9]}'), ("DELETE", b"")):
        answer = db.request(method, at(1), 400, data=body,
                            headers={header: '"1"', "Content-Type": "application/json"})
        assert answer.json()["error"]["code"] == "invalid_request"
        assert header in answer.json()["error"]["message"]
    assert db.get(at(1)).json()["data"] == [1, 2, 3]


def test_include_chooses_the_fields(db):
    db.post("/databases/v/vectors", {"vector_id": 1, "data": [1, 2, 3], "metadata": {"a": 1}})
    for include, keys in (("metadata", {"metadata"}), ("data", {"data"}),
                          ("data,metadata", {"data", "metadata"})):
        row = db.get(at(1) + "?include=" + include).json()
        assert set(row) - {"vector_id", "version"} == keys
    error = db.get(at(1) + "?include=colour", 400).json()["error"]
    assert error["code"] == "invalid_request" and "include" in error["message"]


def test_a_vector_is_written_and_read_as_base64(db):
    row = random_rows(1, 1, 3)[0]
    db.post("/databases/v/vectors", {"vector_id": 1, "data_base64": b64(row)}, 201)
    assert np.array(db.get(at(1)).json()["data"], np.float32).tobytes() == row.tobytes()
    reply = db.get(at(1) + "?encoding=base64").json()
    assert base64.b64decode(reply.get("data_base64", reply.get("data"))) == row.tobytes()


def test_many_are_read_at_once(db):
    db.put_rows("v", [1, "a", 2], random_rows(1, 3, 3), metadata=[{"n": i} for i in range(3)])
    body = {"ids": ["a", 7, "2", "b", 1], "include": ["metadata"]}
    reply = db.post("/databases/v/vectors/get", body).json()
    assert [row["vector_id"] for row in reply["vectors"]] == ["a", 2, 1]
    assert [row["metadata"]["n"] for row in reply["vectors"]] == [1, 2, 0]
    assert all("data" not in row for row in reply["vectors"])
    assert reply["missing"] == [7, "b"]


def test_many_are_deleted_at_once(db):
    db.put_rows("v", [1, "a", 2, 3], random_rows(1, 4, 3))
    reply = db.post("/databases/v/vectors/delete", {"ids": [1, "a", 1, "nothing", "3"]}).json()
    assert reply["deleted"] == 3 and reply["lsn"] > 0
    assert list(db.rows("v")) == [2]
    error = db.post("/databases/v/vectors/delete", {"ids": [2, -1]}, 400).json()["error"]
    assert error["code"] == "invalid_id"
    assert db.count("v") == 1


# ---- batches ----

def test_a_batch_is_one_write(db):
    reply = db.put_rows("v", range(100), [[i, i, i] for i in range(100)])
    assert reply["lsn"] > 0
    assert db.count("v") == 100
    assert {db.get(at(i)).json()["version"] for i in range(0, 100, 9)} == {reply["lsn"]}


def test_the_last_of_equal_ids_in_a_batch_stays(db):
    db.put_rows("v", [1, 2, 1, "1"], [[1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]])
    assert db.count("v") == 2
    assert db.get(at(1)).json()["data"] == [4, 0, 0]


@pytest.mark.parametrize("bad, code", [
    ({"vector_id": 17, "data": [1, 2]}, "dimension_mismatch"),
    ({"vector_id": 17, "data": [1, 2, 3, 4]}, "dimension_mismatch"),
    ({"vector_id": 17, "data": [1, 2, "x"]}, ("invalid_vector", "invalid_request")),
    ({"vector_id": 17, "data": [1, 2, 1e39]}, "invalid_vector"),
    ({"vector_id": 17}, ("invalid_request", "invalid_vector")),
    ({"vector_id": -17, "data": [1, 2, 3]}, "invalid_id"),
    ({"vector_id": 17, "data": [1, 2, 3], "metadata": []}, "invalid_request"),
    ({"vector_id": 17, "data": [1, 2, 3], "colour": "red"}, "invalid_request"),
    ({"vector_id": 17, "data_base64": "AAAA"}, ("invalid_vector", "dimension_mismatch")),
    (17, "invalid_request"),
])
@pytest.mark.parametrize("place", [0, 17, 39])
def test_one_bad_row_refuses_the_whole_batch_and_is_named(module_daemon, bad, code, place):
    daemon = module_daemon
    daemon.put("/databases/whole", {"dimension": 3, "distance_metric": "euclidean"})
    rows = [{"vector_id": 1000 + i, "data": [i, 0, 0]} for i in range(40)]
    rows[place] = bad
    error = daemon.post("/databases/whole/vectors/batch", {"vectors": rows}, 400).json()["error"]
    assert error["code"] in ((code,) if isinstance(code, str) else code), error
    assert str(place) in error["message"] or str(place + 1) in error["message"], error
    assert daemon.count("whole") == 0
    assert daemon.search("whole", [0, 0, 0]) == []


def test_the_message_of_a_wrong_dimension_teaches(any_daemon):
    any_daemon.create("docs", 768)
    rows = [{"vector_id": i, "data": [0] * 768} for i in range(100)]
    rows[17]["data"] = [0] * 767
    error = any_daemon.post("/databases/docs/vectors/batch", {"vectors": rows}, 400).json()["error"]
    assert error["code"] == "dimension_mismatch"
    for word in ("of 100", "767", "docs", "768"):
        assert word in error["message"]
    assert "17" in error["message"] or "18" in error["message"]


def test_an_empty_batch_and_an_ill_formed_one_are_told_apart(db):
    assert db.post("/databases/v/vectors/batch", {"vectors": []}, (200, 201, 400))
    for body in ({}, {"vectors": {}}, {"vectors": None}, {"rows": []}, []):
        error = db.post("/databases/v/vectors/batch", body, 400).json()["error"]
        assert error["code"] in ("invalid_request", "invalid_json")


@pytest.mark.limit(120)
def test_a_large_batch_in_one_request(any_daemon):
    rows = random_rows(1, scaled(20000, 2000), 64)
    any_daemon.create("big", 64)
    any_daemon.put_rows("big", range(len(rows)), rows, text=True)
    stored = any_daemon.rows("big")
    assert all(stored[i][0] == rows[i].tobytes() for i in range(len(rows)))


def test_concurrent_writers_of_one_id_leave_one_of_their_rows(db):
    def client(number):
        for i in range(scaled(40, 5)):
            db.request("POST", "/databases/v/vectors", (200, 201),
                       json={"vector_id": 1, "data": [number, number, number],
                             "metadata": {"n": number, "i": i}})

    run_threads([lambda n=n: client(n) for n in range(6)])
    row = db.get(at(1)).json()
    assert db.count("v") == 1
    assert row["data"] == [row["metadata"]["n"]] * 3


# ---- metadata ----

def test_metadata_is_an_object_or_a_string_that_holds_one(db):
    for given, want in (({"a": 1}, {"a": 1}), ("{}", {}), ('{"index": 3}', {"index": 3}), ({}, {}),
                        ('  {"s": "\\u00e9"} ', {"s": "é"})):
        db.post("/databases/v/vectors", {"vector_id": 1, "data": [1, 2, 3], "metadata": given})
        assert db.get(at(1)).json()["metadata"] == want
    db.post("/databases/v/vectors", {"vector_id": 1, "data": [1, 2, 3]})
    assert db.get(at(1)).json()["metadata"] == {}


@pytest.mark.parametrize("metadata", [
    [], [{}], 1, 1.5, True, None, "", "x", "[]", "1", "null", "{", "{} {}", '{"a":}', "\"{}\"",
    '{"a": NaN}', '{"a": 1, "a": 2}'])
def test_other_metadata_is_refused(module_daemon, metadata):
    daemon = module_daemon
    daemon.put("/databases/meta", {"dimension": 1, "distance_metric": "euclidean"})
    body = {"vector_id": 1, "data": [1], "metadata": metadata}
    error = daemon.post("/databases/meta/vectors", body, 400).json()["error"]
    assert error["code"] in ("invalid_request", "invalid_json")
    assert "metadata" in error["message"]
    assert daemon.count("meta") == 0


def test_key_order_and_number_text_of_metadata_come_back_as_sent(db):
    text = ('{"z":1.10,"a":1e2,"m":{"y":-0.0,"b":[1.000,2E+3,12345678901234567890123]},"":"",'
            '"é":"\\u00e9\\ud83c\\udf89\\/"}')
    body = '{"vector_id":1,"data":[1,2,3],"metadata":%s}' % text
    db.request("POST", "/databases/v/vectors", 201, data=body.encode(),
               headers={"Content-Type": "application/json"})
    assert text in db.get(at(1)).text
    assert text in db.get("/databases/v/vectors?include=metadata").text
    assert text in db.post("/databases/v/search",
                           {"data": [1, 2, 3], "include": ["metadata"]}).text
    assert text in db.post("/export", {"format": "json"}).text
    db.post("/databases/v/vectors", {"vector_id": 2, "data": [1, 2, 3], "metadata": text})
    assert text in db.get(at(2)).text


def test_metadata_has_a_limit_of_64_kib(db):
    for size, status in ((65536, (200, 201)), (65537, 400)):
        text = json.dumps({"a": ""})
        text = json.dumps({"a": "x" * (size - len(text))})
        assert len(text) == size
        body = '{"vector_id":1,"data":[1,2,3],"metadata":%s}' % text
        answer = db.request("POST", "/databases/v/vectors", status, data=body.encode(),
                            headers={"Content-Type": "application/json"})
    assert "65536" in answer.json()["error"]["message"] or "64" in answer.json()["error"]["message"]
    assert len(db.get(at(1)).json()["metadata"]["a"]) == 65536 - 9


def test_count_is_exact(db):
    db.put_rows("v", range(50), [[i, 0, 0] for i in range(50)])
    for i in range(10):
        db.delete(at(i))
    db.put_rows("v", range(20, 30), [[i, 1, 0] for i in range(10)])
    assert db.count("v") == 40
    assert db.post("/databases/v/count", status=200).json()["count"] == 40
