"""Listing: id order, every row exactly once, cursors that stay valid under writes."""
import random

import pytest

from harness import id_order, random_rows, run_threads, scaled

STRINGS = ["a", "aa", "ab", "b", "B", "ba", "é", "éa", "~", "01", "-1", "日本", "a/b", "a b", "zz", "z" * 512]


@pytest.fixture
def mixed(any_daemon):
    """Integers and strings in one database, written in no order."""
    ids = [0, 1, 2, 9, 10, 11, 99, 100, 2**31, 2**32 + 1, 2**53 + 1, 2**63 - 1] + STRINGS \
        + [f"key{i:03}" for i in range(150)] + list(range(1000, 1200))
    random.Random(4).shuffle(ids)
    any_daemon.create("l", 2)
    any_daemon.put_rows("l", ids, random_rows(1, len(ids), 2),
                        metadata=[{"of": str(i)} for i in ids])
    return any_daemon, sorted(ids, key=id_order)


def listed(daemon, **query):
    return [row["vector_id"] for page in daemon.pages("l", **query) for row in page["vectors"]]


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
def test_pages_hold_every_row_once_in_id_order(mixed, limit):
    daemon, ids = mixed
    pages = list(daemon.pages("l", limit=limit))
    assert [row["vector_id"] for page in pages for row in page["vectors"]] == ids
    assert all(len(page["vectors"]) == limit for page in pages[:-1])
    assert pages[-1]["next"] is None


def test_a_page_is_100_rows_unless_told_otherwise(mixed):
    daemon, ids = mixed
    page = daemon.get("/databases/l/vectors").json()
    assert [row["vector_id"] for row in page["vectors"]] == ids[:100]
    assert page["next"] is not None


def test_a_page_that_ends_exactly_at_the_last_row_is_the_last(any_daemon):
    any_daemon.create("l", 2)
    any_daemon.put_rows("l", range(20), random_rows(1, 20, 2))
    pages = list(any_daemon.pages("l", limit=10))
    assert [len(page["vectors"]) for page in pages] in ([10, 10], [10, 10, 0])
    assert any_daemon.get("/databases/l/vectors?limit=20").json()["next"] is None


def test_include_chooses_the_fields(mixed):
    daemon, _ = mixed
    for include, keys in (("data", {"data"}), ("metadata", {"metadata"}),
                          ("data,metadata", {"data", "metadata"})):
        for row in daemon.get(f"/databases/l/vectors?limit=3&include={include}").json()["vectors"]:
            assert set(row) - {"vector_id", "version"} == keys
    for row in daemon.get("/databases/l/vectors?include=metadata&limit=1000").json()["vectors"]:
        assert row["metadata"] == {"of": str(row["vector_id"])}


@pytest.mark.parametrize("limit", [3, 1000])
@pytest.mark.parametrize("prefix", ["a", "key", "key1", "é", "日", "nothing", "z" * 512, "aa"])
def test_prefix_keeps_the_strings_that_start_with_it(mixed, prefix, limit):
    daemon, ids = mixed
    want = [i for i in ids if isinstance(i, str) and i.startswith(prefix)]
    assert listed(daemon, prefix=prefix, limit=limit) == want


def test_an_empty_database_lists_nothing(any_daemon):
    any_daemon.create("l", 2)
    assert any_daemon.get("/databases/l/vectors").json() == {"vectors": [], "next": None}


def test_the_order_is_the_same_after_a_restart_and_after_a_kill(daemon):
    ids = [*range(0, 3000, 3), *[f"s{i * 7919 % 3000}" for i in range(1000)]]
    daemon.create("l", 1)
    daemon.put_rows("l", ids, random_rows(2, len(ids), 1))
    want = sorted(ids, key=id_order)
    for again in (False, True, False):
        assert listed(daemon) == want
        daemon.restart(kill=again)
    assert listed(daemon) == want


def test_a_cursor_stays_valid_under_writes(any_daemon):
    """Rows that exist throughout are listed exactly once; a deleted cursor row does no harm."""
    any_daemon.create("l", 1)
    any_daemon.put_rows("l", range(0, 1000, 2), random_rows(2, 500, 1))
    rng, found, removed = random.Random(6), [], set()
    for page in any_daemon.pages("l", limit=20):
        found += [row["vector_id"] for row in page["vectors"]]
        last = found[-1]
        any_daemon.delete(f"/databases/l/vectors/{last}")  # the cursor's own row
        removed.add(last)
        behind = rng.randrange(1, 999, 2)
        any_daemon.put_rows("l", [behind, f"s{behind}"], random_rows(behind, 2, 1))
        victim = rng.randrange(0, 1000, 2)
        if victim not in removed:
            any_daemon.delete(f"/databases/l/vectors/{victim}")
            removed.add(victim)
        again = rng.randrange(0, 1000, 2)
        if again not in removed:
            any_daemon.put_rows("l", [again], random_rows(again, 1, 1))
    assert found == sorted(set(found), key=id_order)
    assert {i for i in range(0, 1000, 2)} - removed <= set(found)


def test_a_cursor_is_valid_after_a_restart(daemon):
    daemon.create("l", 1)
    daemon.put_rows("l", range(100), random_rows(1, 100, 1))
    cursor = daemon.get("/databases/l/vectors?limit=30").json()["next"]
    daemon.restart()
    page = daemon.get("/databases/l/vectors", params={"limit": 1000, "cursor": cursor}).json()
    assert [row["vector_id"] for row in page["vectors"]] == list(range(30, 100))


def test_listing_while_four_clients_write_misses_nothing(any_daemon):
    any_daemon.create("l", 1, durability="periodic")
    steady = set(range(0, 2000, 2))
    any_daemon.put_rows("l", sorted(steady), random_rows(1, 1000, 1))
    done = []

    def write(number):
        rng = random.Random(number)
        while not done:
            vector_id = rng.randrange(1, 2000, 2)
            if rng.random() < 0.7:
                any_daemon.request("PUT", f"/databases/l/vectors/{vector_id}", (200, 201),
                                   json={"data": [1]})
            else:
                any_daemon.request("DELETE", f"/databases/l/vectors/{vector_id}", (200, 404))

    def read():
        try:
            for _ in range(scaled(5, 1)):
                found = listed(any_daemon, limit=97)
                assert found == sorted(set(found))
                assert steady <= set(found)
        finally:
            done.append(True)

    run_threads([read] + [lambda n=n: write(n) for n in range(4)])


@pytest.mark.parametrize("query, word", [
    ("limit=0", "limit"), ("limit=-1", "limit"), ("limit=x", "limit"), ("limit=", "limit"),
    ("limit=1.5", "limit"), ("limit=99999999999999999999", "limit"), ("cursor=%21%21", "cursor"),
    ("include=colour", "include"), ("colour=red", "colour")])
def test_a_wrong_query_is_refused_by_name(module_daemon, query, word):
    module_daemon.put("/databases/q", {"dimension": 2, "distance_metric": "cosine"})
    error = module_daemon.get(f"/databases/q/vectors?{query}", 400).json()["error"]
    assert error["code"] == "invalid_request" and word in error["message"]
