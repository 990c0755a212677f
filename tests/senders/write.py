"""Writes with a client made from proto/gnomon/v1/write.proto: write.py HOST:PORT NAME END stream|unary, until the file END is there.

Sends again what is not acknowledged. Prints how many samples were.
"""

import os
import pathlib
import queue
import sys
import tempfile
import time

import grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

address, name, end = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
protos = pathlib.Path(__file__).resolve().parents[2] / "proto"
made = tempfile.mkdtemp()
args = ["protoc", f"-I{protos}", f"--python_out={made}", f"--grpc_python_out={made}", "gnomon/v1/write.proto"]
assert protoc.main(args) == 0
sys.path.insert(0, made)
from gnomon.v1 import write_pb2, write_pb2_grpc  # noqa: E402

services = ProtoReflectionDescriptorDatabase(grpc.insecure_channel(address)).get_services()
assert "gnomon.v1.Write" in services, services


def request(number, at):
    sample = write_pb2.WriteSample(value=number, timestamp=at)
    series = write_pb2.WriteSeries(labels_refs=[1, 2], samples=[sample])
    return write_pb2.WriteRequest(id=number, symbols=["", "__name__", name], timeseries=[series])


def finish(count):
    print("acknowledged", count, flush=True)
    # At the interpreter's end grpc takes a call's lock to drop it, which one of its threads may have been stopped with: an
    # ordinary exit hangs one time in sixty (grpc/_channel.py, _MultiThreadedRendezvous.__del__).
    os._exit(0)


if sys.argv[4] == "unary":
    stub = write_pb2_grpc.WriteStub(grpc.insecure_channel(address))
    number = 0
    while not end.exists():
        one = request(number, time.time_ns() // 1_000_000)
        while True:
            try:
                answer = stub.Write(one, timeout=10, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                time.sleep(0.1)
                continue
            if answer.outcome != write_pb2.WriteResponse.OUTCOME_TAKEN:
                sys.exit(f"{answer}")
            break
        number += 1
        time.sleep(0.02)
    finish(number)

waiting = {}
acknowledged = set()
number = 0
while not end.exists() or waiting:
    channel = grpc.insecure_channel(address)
    stub = write_pb2_grpc.WriteStub(channel)
    outgoing = queue.Queue()
    for one, at in waiting.items():
        outgoing.put(request(one, at))
    try:
        answers = stub.WriteStream(iter(outgoing.get, None), wait_for_ready=True)
        while True:
            if not end.exists():
                waiting[number] = time.time_ns() // 1_000_000
                outgoing.put(request(number, waiting[number]))
                number += 1
                time.sleep(0.02)
            if not waiting:
                outgoing.put(None)
                for _ in answers:
                    pass
                break
            answer = next(answers)
            if answer.outcome == write_pb2.WriteResponse.OUTCOME_TAKEN:
                acknowledged.add(answer.id)
                waiting.pop(answer.id, None)
            elif answer.outcome == write_pb2.WriteResponse.OUTCOME_RETRY:
                time.sleep(answer.retry_after_ms / 1000)
                outgoing.put(request(answer.id, waiting[answer.id]))
            else:
                sys.exit(f"{answer}")
    except (grpc.RpcError, StopIteration):
        outgoing.put(None)
        time.sleep(0.5)
    channel.close()
finish(len(acknowledged))
