"""Several models in one process: the limit on their memory, and loading and unloading under load."""

import json
import threading
import time

from server import BODY, BUILT_IN, Server

ADMIN = {"authorization": "Bearer the-administrators-key"}
CLIENTS = 8


def configuration(folder, limit):
    (folder / "admins").write_text("the-administrators-key\n")
    text = f"auth.admin_keys_file = {json.dumps(str(folder / 'admins'))}\nmodels.max_memory_bytes = {limit}\n"
    for name, load in [("second", "on_demand"), ("third", "off")]:
        text += f"[models.{name}]\nsource = {json.dumps(str(BUILT_IN))}\nload = \"{load}\"\n"
    path = folder / "podium.toml"
    path.write_text(text)
    return path


def admin_request(server, path):
    return server.send({}, path=f"/admin/models/{path}", headers=ADMIN)


def read_memory_bytes(server):
    _, listed = server.send(path="/admin/models", headers=ADMIN)
    return listed["memory_bytes"]


def over_the_limit(podium, folder):
    with Server(podium, folder, "--config", configuration(folder, 0)).wait_until_listening() as server:
        default = read_memory_bytes(server)
        admin_request(server, "second/load")
        both = read_memory_bytes(server)
    with Server(podium, folder, "--config", configuration(folder, both + 1000)).wait_until_listening() as server:
        second, _ = admin_request(server, "second/load")
        status, rejected = admin_request(server, "third/load")
        unloaded, _ = admin_request(server, "second/unload")
        third, _ = admin_request(server, "third/load")
        answered, _ = server.send({**BODY, "model": "third"})
    seen = (second, status, unloaded, third, answered)
    assert seen == (200, 409, 200, 200, 200), seen
    assert str(both - default) in rejected["message"] and str(both) in rejected["message"], rejected
    return f"409; {rejected['message']}; after another model is unloaded, it loads and responds with 200"


def on_demand(podium, folder):
    with Server(podium, folder, "--config", configuration(folder, 0)).wait_until_listening() as server:
        began, first = time.monotonic(), None
        while True:
            status, answer = server.send({**BODY, "model": "second"})
            if status == 200:
                break
            first = (status, answer["error"]["code"])
            assert first == (503, "model_unavailable"), answer
            assert time.monotonic() - began < 120, "the model is not loaded"
            time.sleep(0.05)
        took = time.monotonic() - began
    assert first == (503, "model_unavailable"), first
    return f"the first request: {first[0]} {first[1]}; 200 after {took:.1f} s"


def unloaded_under_load(podium, folder):
    with Server(podium, folder, "--config", configuration(folder, 0)).wait_until_listening() as server:
        assert admin_request(server, "second/load")[0] == 200
        seen, over = [], threading.Event()

        def post():
            while not over.is_set():
                try:
                    status, answer = server.send({**BODY, "model": "second"})
                    seen.append(f"{status}" if status == 200 else f"{status} {answer['error']['code']}")
                except OSError as error:
                    seen.append(f"LOST ({type(error).__name__})")

        clients = [threading.Thread(target=post) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(2)
        began = time.monotonic()
        status, model = admin_request(server, "second/unload")
        took = time.monotonic() - began
        default, _ = server.send(BODY)
        time.sleep(0.5)
        over.set()
        for client in clients:
            client.join()
    counts = {outcome: seen.count(outcome) for outcome in sorted(set(seen))}
    # The model loads on demand, so the next request loads it again.
    assert (status, model["state"], default) == (200, "unloaded", 200), (status, model, default)
    assert set(counts) <= {"200", "503 model_unavailable"} and counts["200"] > 0, counts
    table = ", ".join(f"{outcome}: {count}" for outcome, count in counts.items())
    return f"{CLIENTS} clients; {table}; 0 lost; unloaded after {took:.2f} s; the default model responds with 200"


CASES = [
    ("models: over the memory limit", over_the_limit),
    ("models: loaded on demand", on_demand),
    ("models: unloaded under load", unloaded_under_load),
]
