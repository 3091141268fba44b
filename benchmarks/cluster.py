"""The smoke grid of Table 2 on two Ray nodes of which one is killed: the same bytes?

python benchmarks/cluster.py --out DIR [--cells 'Hopper-v4/*'] [--after 20]

Needs the extra ray. The grid is made by the local engine first, a process per core;
then by a Ray cluster of two raylets on this machine, with a CPU each. The second one is
killed, not asked to stop, after some cells are done. Cells that are there are not made
again, so that a second call only compares.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

from simpo.engines.local import cores
from simpo.experiments.locomotion import Table2
from simpo.experiments.report import reproduce

RESULTS = ("progress.csv", "evaluations.csv", "policy/model.safetensors")


def timed(study):
    """Make a grid; seconds."""
    begun = time.perf_counter()
    report = reproduce(study)
    failed = [line for line in report.lines if line.startswith("failed")]
    if failed:
        raise SystemExit("\n".join(failed))
    return time.perf_counter() - begun


def kill_in_the_middle(cluster, node, grid, after, over):
    """Kill a node once so many cells are done and the node has begun another."""
    while not over.wait(0.5):
        if sum(grid.finished(cell) is not None for cell in grid.runs) >= after:
            over.wait(1.5)
            cluster.remove_node(node, allow_graceful=False)
            return


def on_two_nodes(study, after):
    """Make a grid on Ray, losing a node; seconds, and whether it was lost."""
    from ray.cluster_utils import Cluster

    one = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=one)
    node = cluster.add_node(num_cpus=1)
    over = Event()
    told = (cluster, node, study.grid, after, over)
    killer = Thread(target=kill_in_the_middle, args=told, daemon=True)
    killer.start()
    options = {"address": cluster.address}
    try:
        seconds = timed(replace(study, engine="ray", engine_options=options))
    finally:
        over.set()
        killer.join()
        lost = node not in cluster.worker_nodes
        cluster.shutdown()
    return seconds, lost


def different(one, other):
    """Files of a grid's cells that are not the same."""
    return [
        f"{cell.path}/{name}"
        for cell in one.runs
        for name in RESULTS
        if read(one, cell, name) != read(other, cell, name)
    ]


def read(grid, cell, name):
    """Bytes of a finished cell's file; none where it is not done."""
    directory = grid.finished(cell)
    return (directory / name).read_bytes() if directory else b""


def main() -> None:
    """Both grids, and how they differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", nargs="*", default=())
    parser.add_argument("--after", type=int, default=20, help="cells before the kill")
    options = parser.parse_args()
    study = Table2(scale="smoke", cells=tuple(options.cells), seeds=1)
    local = replace(study, out=options.out / "local")
    ray = replace(study, out=options.out / "ray")
    print(f"local: {len(local.grid.runs)} cells, {len(cores())} cores", flush=True)
    print(f"local: {timed(local):.0f} s", flush=True)
    seconds, lost = on_two_nodes(ray, options.after)
    print(f"ray:   {seconds:.0f} s, a node {'was' if lost else 'was not'} lost")
    files = different(local.grid, ray.grid)
    total = len(RESULTS) * len(local.grid.runs)
    print(f"same:  {total - len(files)} of {total} files")
    print("\n".join(files))


if __name__ == "__main__":
    main()
