"""One launcher per node, as torchrun is one: its workers meet at MASTER_ADDR:MASTER_PORT.

Each of the WORKERS processes of a node says over TCP what it was told it is; the first one of all
checks that, prints the port, and lets everybody go when the file GO is there.
"""

import os
import socket
import subprocess
import sys
import time

GO, WORKERS = sys.argv[1], 2
PATIENCE_S = 40


def launch() -> int:
    """Start this node's workers, with ranks made of the launcher's own."""
    node = int(os.environ["NODE_RANK"])
    world = int(os.environ["WORLD_SIZE"]) * WORKERS
    workers = []
    for local in range(WORKERS):
        told = {"RANK": node * WORKERS + local, "LOCAL_RANK": local, "WORLD_SIZE": world}
        environment = {**os.environ, **{key: str(value) for key, value in told.items()}}
        argv = [sys.executable, __file__, GO, "worker"]
        workers.append(subprocess.Popen(argv, env=environment))
    return max(abs(worker.wait()) for worker in workers)


def own_word() -> str:
    return " ".join(os.environ[key] for key in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"))


def lead(place: tuple[str, int]) -> None:
    world = int(os.environ["WORLD_SIZE"])
    with socket.create_server(place) as server:
        server.settimeout(PATIENCE_S)
        others = [server.accept()[0] for _ in range(world - 1)]
    words = [own_word(), *(other.recv(100).decode() for other in others)]
    wanted = [f"{rank} {rank % WORKERS} {rank // WORKERS} {world}" for rank in range(world)]
    if sorted(words) != wanted:
        sys.exit(f"came: {words}")
    print(f"{world} met at {place[1]}", flush=True)
    while not os.path.exists(GO):
        time.sleep(0.1)
    for other in others:
        other.send(b"go")


def follow(place: tuple[str, int]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection = socket.create_connection(place, PATIENCE_S)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    connection.send(own_word().encode())
    connection.settimeout(None)
    if connection.recv(2) != b"go":
        sys.exit("the first worker went away")


def main() -> None:
    if "worker" not in sys.argv:
        sys.exit(launch())
    place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if os.environ["RANK"] == "0":
        lead(place)
    else:
        follow(place)


main()
