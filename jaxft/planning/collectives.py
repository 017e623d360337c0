"""The collectives that a compiled program sends between its devices, read from its HLO text.

    executable = jax.jit(step).lower(*shapes).compile()
    found = collectives(executable.as_text())
    # [Collective(kind="all-reduce", bytes=4194304, group=8, count=1, is_exact=True), ...]
    moved_bytes(found)   # {"all-reduce": 7340032, "all-gather": 0, ...}: what one device sends

The text is HLO after optimization, of one device's program. The compilers write the same collective
in different ways. CPU's writes `all-reduce`; GPU's the halves `all-reduce-start` and `-done`; TPU's
a fusion named `all-reduce-scatter`, or one `all-gather` printed in each of the fusions that it
overlaps, or a loop of permutes that multiplies the parts as they arrive.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# XLA's name for the computation of a TPU fusion that is only a reduce-scatter: it contains an
# all-reduce and the slice of the result that a device keeps.
SCATTER = "all-reduce-scatter"

# These give a value another form: readers of their output read the value itself.
PASS_THROUGH = ("bitcast", "convert", "copy")

# The attributes that name computations.
CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)"
    r"=(\{[^}]*\}|%[\w.\-]+)"
)


@dataclass(frozen=True)
class Collective:
    """Equal collectives, and the number of them in a step.

    Attributes:
      kind: one of `KINDS`.
      bytes: of the whole array, for one group: what is reduced, what is gathered or scattered, all
        parts that a device exchanges; of a permute what a device sends. A tuple's arrays add up.
      group: devices that do it together; a permute has a sender and a receiver.
      count: how often a step does it, trips of loops included.
      is_exact: whether `count` is exact. It is not if the trips of a loop are unknown (it then
        counts once) or if there is a condition (all of its branches then count).
    """

    kind: str
    bytes: int
    group: int
    count: int
    is_exact: bool = True


@dataclass(frozen=True)
class Instruction:
    """A line of a computation: `[ROOT] %name = shape opcode(inside), attributes`."""

    name: str
    shape: str
    opcode: str
    inside: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """The names of what it reads."""
        return re.findall(r"%([\w.\-]+)", self.inside)


Computation = dict[str, Instruction]  # by name, in order


@dataclass(frozen=True)
class Program:
    """A module: its computations by name, and which of them runs."""

    computations: dict[str, Computation]
    entry: str
    devices: int


def collectives(hlo_text: str) -> list[Collective]:
    """Returns the collectives of a program; equal ones are merged and counted.

    Args:
      hlo_text: `executable.as_text()`.
    """
    program = parse(hlo_text)
    chains: dict[str, Collective] = {}
    counts: Counter[Collective] = Counter()
    for instruction, found in walk(program, program.entry, times=1, is_exact=True):
        chain = re.search(r"channel_id=\d+(?=.*\bchain_id=)", instruction.attributes)
        if chain is None:
            counts[replace(found, count=1)] += found.count
        else:
            # An asynchronous collective that overlaps several fusions is printed in each of them,
            # including fusions inside a loop; count it once.
            before = chains.get(chain[0], found)
            chains[chain[0]] = min(before, found, key=lambda one: one.count)
    for found in chains.values():
        counts[replace(found, count=1)] += found.count
    return [replace(found, count=count) for found, count in counts.items()]


def moved_bytes(found: Iterable[Collective]) -> dict[str, int]:
    """Returns kind -> bytes that one device sends in a step; it receives the same number."""
    moved = dict.fromkeys(KINDS, 0.0)
    for one in found:
        moved[one.kind] += one.count * one.bytes * sent_share(one.kind, one.group)
    return {kind: round(sent) for kind, sent in moved.items()}


def sent_share(kind: str, group: int) -> float:
    """Returns the bytes that one device sends, given those of the whole array.

    The least possible, which ring algorithms reach: 2(n-1)/n of an all-reduce (Patarasuk and Yuan
    2009, https://doi.org/10.1016/j.jpdc.2008.09.002), (n-1)/n of an all-gather, a reduce-scatter
    and an all-to-all (Thakur et al. 2005, https://doi.org/10.1177/1094342005051521).

    Args:
      kind: one of `KINDS`.
      group: devices, n.
    """
    if kind == "collective-permute":
        return float(group > 1)
    return (2 if kind == "all-reduce" else 1) * (group - 1) / group


# ---------------------------------------------------------------- from computation to computation


def walk(
    program: Program, name: str, *, times: int, is_exact: bool
) -> Iterator[tuple[Instruction, Collective]]:
    """Yields the collectives of a computation and of those that it calls.

    Args:
      name: of the computation.
      times: how often it runs.
      is_exact: whether `times` is exact.
    """
    computation = program.computations[name]
    for instruction in computation.values():
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            kind = "reduce-scatter" if is_scatter(name, kind) else kind
            payload, group = size_and_group(instruction, program.devices)
            yield instruction, Collective(kind, payload, group, times, is_exact)
        for called, trips in calls(program, computation, instruction):
            certain = is_exact and trips is not None and instruction.opcode != "conditional"
            count = times * (1 if trips is None else trips)
            yield from walk(program, called, times=count, is_exact=certain)


def is_scatter(computation: str, kind: str) -> bool:
    """Whether it is the all-reduce in a TPU fusion of which a device keeps only its part."""
    return kind == "all-reduce" and computation.startswith(SCATTER)


def calls(
    program: Program, caller: Computation, instruction: Instruction
) -> Iterator[tuple[str, int | None]]:
    """Yields the computations that an instruction runs, and how often: None if that is unknown."""
    if instruction.opcode in ("async-update", "async-done"):
        return  # name what their async-start runs
    trips = trip_count(program, caller, instruction) if instruction.opcode == "while" else 1
    for role, names in CALLED.findall(instruction.attributes):
        # A loop asks its condition once more than it runs its body.
        again = 1 if role == "condition" and trips is not None else 0
        for called in re.findall(r"%([\w.\-]+)", names):
            yield called, None if trips is None else trips + again


# ---------------------------------------------------------------- trips of loops


def trip_count(program: Program, caller: Computation, loop: Instruction) -> int | None:
    """Returns how often a loop runs: from the compiler's note, else from its counter.

    TPU's compiler drops the note. None if the loop is not `for (i = start; i < limit; i += step)`.
    """
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if noted:
        return int(noted[1])
    names = dict(re.findall(r"\b(condition|body)=%([\w.\-]+)", loop.attributes))
    condition, body = (program.computations[names[role]] for role in ("condition", "body"))
    test = root(condition)
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, limit = (source(condition, name) for name in test.operands)
    index = state_index(counter)
    if index is None:
        return None
    start, stop = number(element(caller, loop.operands[0], index)), number(limit)
    step = step_of(body, index)
    if start is None or stop is None or step is None:
        return None
    return max(0, math.ceil((stop - start) / step))


def step_of(body: Computation, index: int) -> int | None:
    """The number that a loop's body adds to an element of its state; None if it does more."""
    following = element(body, root(body).name, index)
    if following is None or following.opcode != "add":
        return None
    terms = [source(body, name) for name in following.operands]
    steps = [step for term in terms if (step := number(term)) is not None and step > 0]
    is_counter = index in [state_index(term) for term in terms]
    return steps[0] if is_counter and steps else None


def element(computation: Computation, name: str, index: int) -> Instruction | None:
    """The element of a tuple; None if the tuple is not made in this computation."""
    made = source(computation, name)
    if made is None or made.opcode != "tuple":
        return None
    return source(computation, made.operands[index])


def source(computation: Computation, name: str) -> Instruction | None:
    """The instruction that makes a value, copies of it passed over."""
    found = computation.get(name)
    while found is not None and found.opcode in PASS_THROUGH:
        found = computation.get(found.operands[0])
    return found


def state_index(instruction: Instruction | None) -> int | None:
    """The place in a tuple from which an instruction takes its value."""
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    return int(re.findall(r"\bindex=(\d+)", instruction.attributes)[0])


def number(instruction: Instruction | None) -> int | None:
    """The value of a whole constant."""
    if instruction is None or instruction.opcode != "constant":
        return None
    return int(instruction.inside) if re.fullmatch(r"-?\d+", instruction.inside) else None


def root(computation: Computation) -> Instruction:
    """The instruction whose value a computation returns."""
    return next(one for one in computation.values() if one.is_root)


# ---------------------------------------------------------------- sizes


def size_and_group(instruction: Instruction, devices: int) -> tuple[int, int]:
    """Returns bytes of the whole array, and the devices of a group.

    Args:
      devices: of the program, which is the group where none is stated.
    """
    group = group_size(instruction.attributes, devices)
    size = shape_bytes(result_shape(instruction))
    return size * (group if instruction.opcode.startswith("reduce-scatter") else 1), group


def result_shape(instruction: Instruction) -> str:
    """The shape that a collective yields in the end.

    The first half of one in two halves yields (operands, results, ...). An all-reduce yields only
    the results, unless its operands are in a tuple.
    """
    parts = top_level(instruction.shape)
    if instruction.opcode == "all-reduce-start" and not parts[0].startswith("("):
        return instruction.shape
    return parts[1] if instruction.opcode.endswith("-start") else instruction.shape


def top_level(shape: str) -> list[str]:
    """The parts of a tuple's shape, parts of parts left together; another shape is one part."""
    if not shape.startswith("("):
        return [shape]
    parts, depth = [""], 0
    for letter in re.sub(r"/\*.*?\*/", "", shape[1:-1]):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def shape_bytes(shape: str) -> int:
    """Returns the bytes of the arrays in a shape, as in `(bf16[8,128]{1,0:T(8,128)}, s32[])`.

    Tile padding is not counted, because it is not sent.
    """
    return sum(
        math.ceil(bits(dtype) * math.prod(int(side) for side in re.findall(r"\d+", sides)) / 8)
        for dtype, sides in re.findall(r"\b([a-z]+\d*\w*)\[([\d,<= ]*)\]", shape)
    )


def bits(dtype: str) -> int:
    """Bits of an element: `bf16` 16, `f8e4m3fn` 8, `pred` 8; a token has none."""
    width = re.match(r"[a-z]+(\d+)", dtype)
    return int(width[1]) if width else 8 * (dtype == "pred")


def group_size(attributes: str, devices: int) -> int:
    """Returns how many devices take part in a collective together.

    Args:
      attributes: with `replica_groups` in one of XLA's forms: `{{0,1},{2,3}}`, `[2,4]<=[8]` for two
        groups of four, `mesh['a'=2,'b'=4] {'b'}` for groups along axis b; or with
        `source_target_pairs`.
      devices: the group that `{}` means.
    """
    pairs = re.search(r"source_target_pairs=(\{(?:\{\d+,\d+\},?)*\})", attributes)
    if pairs:
        return 1 + any(one != other for one, other in re.findall(r"(\d+),(\d+)", pairs[1]))
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes)
    if mesh:
        return mesh_group(mesh[1], mesh[2])
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes)
    if iota:
        return int(iota[1])
    listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", attributes)
    groups = re.findall(r"\{([\d,]*)\}", listed[1]) if listed else []
    return max((len(group.split(",")) for group in groups), default=devices)


def mesh_group(mesh: str, axes: str) -> int:
    """Returns the devices along some axes of a mesh.

    Args:
      mesh: `'a'=2,'b'=4`.
      axes: `'a','b'`; of an axis divided further `'b':(2)2`, a part of two below a part of two.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", mesh)}
    return math.prod(
        int(part) if part else sizes[name]
        for name, part in re.findall(r"([^,:]+)(?::\(\d+\)(\d+))?", axes.replace("'", ""))
    )


# ---------------------------------------------------------------- text


def parse(hlo_text: str) -> Program:
    """Returns the computations of a module's text."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in hlo_text.splitlines():
        head = re.match(r"(ENTRY )?%([\w.\-]+) .*\{$", line)
        if head:
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif line.startswith(" ") and (instruction := parse_line(line)):
            current[instruction.name] = instruction
    header = hlo_text.partition("\n")[0]
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header)
    return Program(computations, entry, math.prod(map(int, counts)))


def parse_line(line: str) -> Instruction | None:
    """Returns the instruction of a line; None if there is none in it."""
    # Only an opcode is a word between a space and a parenthesis; shapes contain none.
    match = re.match(r" +(ROOT )?%([\w.\-]+) = (.+?) ([a-z][a-z0-9\-]*)\(", line)
    if match is None:
        return None
    end = closing(line, match.end())
    is_root, name, shape, opcode = match.groups()
    inside = line[match.end() : end]
    return Instruction(name, shape, opcode, inside, line[end + 1 :], bool(is_root))


def closing(text: str, start: int) -> int:
    """Where the parenthesis closes that was opened before `start`."""
    depth = 1
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.start()
    return len(text)
