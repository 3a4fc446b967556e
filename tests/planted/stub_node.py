"""A process that a supervisor can supervise and that is no Raft node: it elects nobody.

It keeps ARCHITECTURE §9's promises about processes (dies with its parent, watches its lifeline,
answers `status` and `stop`, stops on SIGTERM) and invents the protocol state that a test asks for
by entry options. What it proves is about supervision only.

Entry options: `leader` (node that claims to lead), `exit_code` and `exit_node` (that node prints
and exits at once), `deaf_node` (that node never stops when asked), `noise_bytes` (printed at start).
"""

import argparse
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import zmq

from node.admin import AdminLane
from node.config import NodeConfig
from node.exits import StartError
from node.identity import Identity, claim_directory
from node.metrics import GroupSnapshot, NodeSnapshot, WalSnapshot

PR_SET_PDEATHSIG = 1


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--parent-pid", type=int)
    parser.add_argument("--lifeline-fd", type=int)
    parser.add_argument("--status-fd", type=int)
    parser.add_argument("--prepared", action="store_true")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != options.parent_pid:
        return 1
    config = NodeConfig.load(options.config)
    entry = config.entry_options
    sys.stderr.write("x" * int(entry.get("noise_bytes", 0)))
    if entry.get("exit_node", 0) == config.node:
        sys.stderr.write("line before\nsegment 00000001.wal: bad CRC at byte 8192\n")
        return int(entry["exit_code"])
    try:
        claim_directory(config.data_dir, Identity(config.cluster_id, config.node))
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    serve(config, options.lifeline_fd)
    return 0


def serve(config: NodeConfig, lifeline: int) -> None:
    running = True
    deaf = config.entry_options.get("deaf_node", 0) == config.node

    def stop(*_):
        nonlocal running
        running = deaf

    signal.signal(signal.SIGTERM, stop)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    born = time.monotonic_ns()
    leader = int(config.entry_options.get("leader", 1))

    def status(args):
        uptime = time.monotonic_ns() - born
        role = "leader" if config.node == leader else "follower"
        group = GroupSnapshot(0, role, 3, leader, leader, 9, 9, 9, 9, 1)
        wal = WalSnapshot(fsyncs=uptime // 10**7, entries=uptime // 10**6)
        return NodeSnapshot(
            config.node, os.getpid() << 20, os.getpid(), uptime, (group,), wal
        ).encode()

    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.bind(config.endpoint("admin"))
        lane = AdminLane(socket, {"status": status, "stop": lambda args: stop()})
        poller = zmq.Poller()
        for source in (socket, lifeline, wake_read):
            poller.register(source, zmq.POLLIN)
        while running:
            ready = dict(poller.poll())
            if lifeline in ready:
                os._exit(0)
            if wake_read in ready:
                os.read(wake_read, 64)
            lane.handle_ready()


if __name__ == "__main__":
    sys.exit(main())
