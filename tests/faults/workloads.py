"""What the fault tests do to a daemon, and what must then be stored.

A model is {database: {id: (bytes of the row, metadata)}}.  An operation says what it asks for and
which models it may leave behind: `after` if it was acknowledged, any of `between` if it was not.
"""
import copy
import time

import numpy as np

from harness import TIME_SCALE

DIMENSION = 3


def row(*numbers):
    return [float(n) for n in numbers]


def stored(data, metadata=None):
    return np.array(data, "<f4").tobytes(), metadata or {}


class Op:
    """One request.  `writes` names the database that it changes, None: it only reads."""

    def __init__(self, method, path, body=None, writes=None, change=None, steps=()):
        self.method, self.path, self.body, self.writes = method, path, body, writes
        self._change = change
        self._steps = steps

    def __str__(self):
        return f"{self.method} {self.path}"

    def send(self, http):
        return http(self.method, self.path, self.body)

    def after(self, model):
        return self._applied(self._change, model)

    def between(self, model):
        """What an operation without an answer may have done: nothing, a step of it, all of it."""
        return [model, *(self._applied(step, model) for step in self._steps), self.after(model)]

    @staticmethod
    def _applied(change, model):
        model = copy.deepcopy(model)
        if change:
            change(model)
        return model


def put(database, vector_id, *numbers, **metadata):
    data = row(*numbers)

    def change(model):
        model[database][vector_id] = stored(data, metadata)
    return Op("POST", f"/databases/{database}/vectors",
              {"vector_id": vector_id, "data": data, "metadata": metadata}, database, change)


def batch(database, ids, stamp, pad=0):
    rows = {i: (row(n, stamp, 0.25), {"pad": "x" * pad, "n": n}) for n, i in enumerate(ids)}

    def change(model):
        for i, (data, metadata) in rows.items():
            model[database][i] = stored(data, metadata)
    return Op("POST", f"/databases/{database}/vectors/batch",
              {"vectors": [{"vector_id": i, "data": data, "metadata": metadata}
                           for i, (data, metadata) in rows.items()]}, database, change)


def delete(database, vector_id):
    def change(model):
        del model[database][vector_id]
    return Op("DELETE", f"/databases/{database}/vectors/{vector_id}", None, database, change)


def delete_many(database, ids):
    def change(model):
        for i in ids:
            model[database].pop(i, None)
    return Op("POST", f"/databases/{database}/vectors/delete", {"ids": list(ids)}, database, change)


def create(database, dimension=DIMENSION, **options):
    def change(model):
        model[database] = {}
    return Op("POST", f"/databases/{database}",
              {"dimension": dimension, "distance_metric": "euclidean", **options}, database, change)


class Linked(Op):
    """Wait until nothing waits to be linked in the search index."""

    def __init__(self, database):
        super().__init__("WAIT", f"/databases/{database}/stats")

    def send(self, http):
        deadline = time.monotonic() + 30 * TIME_SCALE
        while True:
            status, answer = http("GET", self.path, None)
            if status != 200 or answer["index"]["state"] == "ready":
                return status, answer
            assert time.monotonic() < deadline, f"not linked: {answer}"
            time.sleep(.01)


def drop(database):
    def change(model):
        del model[database]
    return Op("DELETE", f"/databases/{database}", None, database, change)


def restore(database, ids):
    """A dump is restored batch by batch; this one is one batch, behind the creation."""
    rows = {i: (row(n, 0.5, n), {"r": n}) for n, i in enumerate(ids)}

    def make(model):
        model.setdefault(database, {})

    def change(model):
        make(model)
        for i, (data, metadata) in rows.items():
            model[database][i] = stored(data, metadata)
    return Op("POST", f"/databases/{database}/restore",
              {"name": database, "schema": {"dimension": DIMENSION, "distance_metric": "euclidean"},
               "vectors": [{"id": i, "data": data, "metadata": metadata}
                           for i, (data, metadata) in rows.items()]}, database, change, [make])


def flush(database=None):
    return Op("POST", f"/databases/{database}/flush" if database else "/storage/flush")


def compact(database):
    return Op("POST", f"/databases/{database}/compact")


def listing(database):
    return Op("GET", f"/databases/{database}/vectors?limit=1000&include=data,metadata")


def rows_of(answer):
    found = {}
    for one in answer["vectors"]:
        assert one["vector_id"] not in found, f"{one['vector_id']!r} is listed twice"
        found[one["vector_id"]] = stored(one["data"], one["metadata"])
    assert answer["next"] is None
    return found


def check_near(http, name, rows):
    """However it is searched: what is found are rows, at their distances."""
    for some in list(rows.values())[:1]:
        query = np.frombuffer(some[0], "<f4") + np.float32(.25)
        status, answer = http("POST", f"/databases/{name}/search",
                              {"data": [float(x) for x in query], "top_k": 4})
        assert status == 200, (name, answer)
        found = answer["results"]
        assert len(found) == min(4, len(rows)), f"{name}: a search finds {answer}"
        for one in found:
            away = np.frombuffer(rows[one["vector_id"]][0], "<f4").astype(float) - query
            assert abs(one["distance"] - np.sqrt(away @ away)) < 1e-5, f"{name}: {one} is not there"


def read_all(http):
    """The model of what is stored."""
    status, answer = http("GET", "/databases")
    assert status == 200, answer
    model = {}
    for database in answer["databases"]:
        name = database["name"]
        status, rows = listing(name).send(http)
        assert status == 200, (name, rows)
        model[name] = rows_of(rows)
        check_near(http, name, model[name])
        assert database["vector_count"] == len(model[name]), f"{name}: the count is wrong"
    return model


def difference(got, want):
    """Some words on where two models differ."""
    if got.keys() != want.keys():
        return f"databases {sorted(got)}, not {sorted(want)}"
    for name in got:
        if got[name] == want[name]:
            continue
        lost = sorted(map(str, want[name].keys() - got[name].keys()))[:5]
        more = sorted(map(str, got[name].keys() - want[name].keys()))[:5]
        other = [str(i) for i in got[name].keys() & want[name].keys()
                 if got[name][i] != want[name][i]][:5]
        return f"{name}: lacks {lost}, has {more} too much, {other} differ"
    return "no difference"
