"""Which of a kernel's tensors it accesses, and how wide, read from its PTX."""

import re
from collections import defaultdict
from collections.abc import Iterator

THREAD = "%tid.x"
WAIT = "griddepcontrol.wait"
_STATEMENT = re.compile(r"\s*(?:@!?%p\d+\s+)?([a-z]\S*)\s+(.*);")
_PARAMETER = re.compile(r"(%\w+), \[\w+_param_(\d+)")
_ACCESS = re.compile(r"(?:ld|st)\.global\S*?(?:\.v(\d))?\.[busf](\d+)$")
_REGISTER = re.compile(r"%[\w.]+")


def pointer_widths(ptx: str, parameters: list[str]) -> dict[str, int]:
    """The narrowest access in bits through each parameter, among accesses whose address differs between threads.

    Values are followed from the parameters and from the number of the thread to the addresses they reach. What all
    threads read alike, a coefficient or a seed, costs one access whatever its width, and is left out.
    """
    sources = _reach(list(_flows(ptx, parameters)))
    widths: dict[str, int] = {}
    for opcode, operands in _statements(ptx):
        if access := _ACCESS.match(opcode):
            bits = int(access[1] or 1) * int(access[2])
            reached = sources[_address(operands)]
            for name in reached & set(parameters) if THREAD in reached else ():
                widths[name] = min(bits, widths.get(name, bits))
    return widths


def before_wait(ptx: str, parameters: list[str]) -> list[str]:
    """What is accessed before the wait for the launch ahead, such as "ld x_ptr"; all of it where there is no wait."""
    sources = _reach(list(_flows(ptx, parameters)))
    found = set()
    for opcode, operands in _statements(ptx.partition(WAIT)[0]):
        if _ACCESS.match(opcode):
            found |= {f"{opcode[:2]} {name}" for name in sources[_address(operands)] & set(parameters)}
    return sorted(found)


def _statements(ptx: str) -> Iterator[tuple[str, str]]:
    for line in ptx.splitlines():
        if statement := _STATEMENT.match(line):
            yield statement[1], statement[2]


def _address(operands: str) -> str:
    return _REGISTER.search(operands, operands.index("["))[0]


def _flows(ptx: str, parameters: list[str]) -> Iterator[tuple[list[str], list[str], bool]]:
    """From which values which are made, and whether of memory: then a tensor's name stays behind."""
    for opcode, operands in _statements(ptx):
        first, _, rest = operands.partition("}" if operands.startswith("{") else ",")
        results, inputs = _REGISTER.findall(first), _REGISTER.findall(rest)
        if parameter := _PARAMETER.match(operands):
            yield [parameter[1]], parameters[int(parameter[2]) :][:1], False
        elif opcode.startswith("ld."):
            yield results, [_address(operands)] if opcode.startswith("ld.global") else [THREAD], True
        elif not opcode.startswith(("st.", "bra", "bar.")):
            yield results, inputs, False


def _reach(flows: list[tuple[list[str], list[str], bool]]) -> defaultdict[str, set[str]]:
    """The parameters, and THREAD, that each register's value depends on: repeated until loops add nothing."""
    sources: defaultdict[str, set[str]] = defaultdict(set)
    changed = True
    while changed:
        changed = False
        for results, inputs, through_memory in flows:
            found = set().union(*({each} if each[0] != "%" or each == THREAD else sources[each] for each in inputs))
            found = found & {THREAD} if through_memory else found
            for result in results:
                changed |= not found <= sources[result]
                sources[result] |= found
    return sources
