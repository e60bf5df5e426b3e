"""Forms of request bodies: raw rows."""
import numpy as np
import pytest

from harness import random_rows

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
