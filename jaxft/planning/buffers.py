"""The content of XLA's buffers at the peak of a step: gradients, activations, workspace.

    with dumped() as (options, read):
        executable = lowered.compile(compiler_options=options)
        peak_by_kind(read(), temporaries)   # {"gradients": ..., "activations": ..., ...}

XLA lays out all temporaries of a program in one block, by a simulated heap whose trace it writes
down. Replaying the trace gives the buffers that are alive at the peak; the operation that writes a
buffer says, by the name JAX gave it, whether it belongs to the forward pass (`jvp`), the backward
pass (`transpose(jvp)`) or the optimizer. XLA does so for CPUs and NVIDIA GPUs; the TPU compiler
keeps its assignment to itself.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

KINDS = ("gradients", "activations", "workspace")

# The fields read here, with their numbers in XLA's xla/service/hlo.proto and xla/xla_data.proto.
# Only TensorFlow publishes these messages for Python; fields not listed here are skipped.
Field = tuple[int, str]
MESSAGES: dict[str, dict[str, Field]] = {
    "HloProto": {
        "hlo_module": (1, "HloModuleProto"),
        "buffer_assignment": (3, "BufferAssignmentProto"),
    },
    "HloModuleProto": {"computations": (3, "HloComputationProto*")},
    "HloComputationProto": {"instructions": (2, "HloInstructionProto*")},
    "HloInstructionProto": {
        "opcode": (2, "string"),
        "metadata": (7, "OpMetadata"),
        "id": (35, "int64"),
        "operand_ids": (36, "int64*"),
    },
    "OpMetadata": {"op_name": (2, "string")},
    "BufferAssignmentProto": {
        "logical_buffers": (1, "LogicalBufferProto*"),
        "heap_simulator_traces": (4, "HeapSimulatorTrace*"),
    },
    "LogicalBufferProto": {
        "id": (1, "int64"),
        "size": (2, "int64"),
        "defined_at": (3, "LogicalBufferLocation"),
    },
    "LogicalBufferLocation": {"instruction_id": (4, "int64")},
    "HeapSimulatorTrace": {"events": (1, "HeapSimulatorEvent*")},
    "HeapSimulatorEvent": {
        "kind": (1, "int64"),
        "buffer_id": (2, "int64"),
        "share_with_canonical_id": (5, "int64"),
    },
}
ALLOC, FREE, SHARE_WITH = range(3)  # HeapSimulatorTrace.Event.Kind

# These move a value or reshape it: readers of their output read the value itself.
PASS_THROUGH = ("bitcast", "get-tuple-element", "tuple", "copy", "transpose", "reshape")


def message_class(name: str) -> Any:
    """Returns the class of one of `MESSAGES`."""
    field_types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="jaxft_hlo.proto", syntax="proto3")
    for message_name, fields in MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number)
            is_repeated = kind.endswith("*")
            field.label = field_types.LABEL_REPEATED if is_repeated else field_types.LABEL_OPTIONAL
            kind = kind.removesuffix("*")
            scalars = {"int64": field_types.TYPE_INT64, "string": field_types.TYPE_STRING}
            field.type = scalars.get(kind, field_types.TYPE_MESSAGE)
            if kind not in scalars:
                field.type_name = f".{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


@contextmanager
def dumped() -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
    """Yields `(compiler options, read)`; `read()` gives the compiled HloProto, or None.

    XLA exposes the buffer assignment only through its debug dump. None if there is no dump or no
    assignment in it: an executable from JAX's compilation cache is dumped without one.
    """
    with tempfile.TemporaryDirectory(prefix="jaxft-hlo-") as folder:

        def read() -> Any:
            files = list(Path(folder).glob("*after_optimizations.hlo.pb"))
            if not files:
                return None
            largest = max(files, key=lambda path: path.stat().st_size)
            try:
                hlo = message_class("HloProto").FromString(largest.read_bytes())
            except DecodeError:  # XLA says nothing about a temporary directory that is full
                return None
            return hlo if hlo.buffer_assignment.logical_buffers else None

        yield {"xla_dump_to": folder, "xla_dump_hlo_as_proto": True}, read


def peak_by_kind(hlo: Any, temporaries: int) -> dict[str, int]:
    """Returns the bytes of a program's temporaries by kind, at its peak; they add up to the total.

    `gradients` are written by the backward pass and read by the optimizer; `activations` are
    written by the forward pass, and at the peak they wait for the backward pass; `workspace` is
    all else: intermediate results, and the gaps between the buffers.

    Args:
      hlo: as `dumped` reads it.
      temporaries: the size of XLA's block (`jaxft.planning.compiled.compiled_bytes`).
    """
    assignment = hlo.buffer_assignment
    instructions = {i.id: i for c in hlo.hlo_module.computations for i in c.instructions}
    readers = readers_of(instructions)
    sizes = {buffer.id: buffer.size for buffer in assignment.logical_buffers}
    writers = {
        buffer.id: instructions[buffer.defined_at.instruction_id]
        for buffer in assignment.logical_buffers
    }
    bytes_of = dict.fromkeys(KINDS, 0)
    for trace in assignment.heap_simulator_traces:
        for buffer, size in alive_at_peak(trace.events, sizes).items():
            bytes_of[kind_of(writers[buffer], readers)] += size
    bytes_of["workspace"] += temporaries - sum(bytes_of.values())
    return bytes_of


def alive_at_peak(events: Any, sizes: dict[int, int]) -> dict[int, int]:
    """Returns buffer -> bytes at the moment of a heap trace with the most bytes alive.

    Several buffers may share a place, one after the other or at once; the place has the size of the
    first and counts for the last.
    """
    place_of: dict[int, int] = {}
    users: dict[int, int] = defaultdict(int)
    last: dict[int, int] = {}
    now = most = 0
    at_peak: dict[int, int] = {}
    for event in events:
        if event.kind == FREE:
            place = place_of.pop(event.buffer_id)
            users[place] -= 1
            now -= sizes[place] if users[place] == 0 else 0
            continue
        shares = event.kind == SHARE_WITH
        place = event.share_with_canonical_id if shares else event.buffer_id
        now += sizes[place] if users[place] == 0 else 0
        users[place] += 1
        place_of[event.buffer_id], last[place] = place, event.buffer_id
        if now > most:
            most = now
            at_peak = {last[place]: sizes[place] for place in set(place_of.values())}
    return at_peak


def readers_of(instructions: dict[int, Any]) -> dict[int, list[Any]]:
    """Returns instruction id -> the instructions that read its output."""
    readers: dict[int, list[Any]] = defaultdict(list)
    for instruction in instructions.values():
        for operand in instruction.operand_ids:
            readers[operand].append(instruction)
    return readers


def kind_of(writer: Any, readers: dict[int, list[Any]]) -> str:
    """The kind of the buffer that an instruction writes."""
    passed = phase(writer)
    if passed == "forward":
        return "activations"
    if passed == "backward" and "update" in phases_that_read(writer, readers):
        return "gradients"
    return "workspace"


def phase(instruction: Any) -> str:
    """`"forward"`, `"backward"` or `"update"`, by the name that JAX gave the operation."""
    name = instruction.metadata.op_name
    if "transpose(jvp" in name:
        return "backward"
    return "forward" if "jvp(" in name else "update"


def phases_that_read(writer: Any, readers: dict[int, list[Any]]) -> set[str]:
    """The phases whose operations read an output, directly or through a change of shape."""
    found = set()
    for reader in readers[writer.id]:
        if reader.opcode in PASS_THROUGH:
            found |= phases_that_read(reader, readers)
        else:
            found.add(phase(reader))
    return found
