"""Remote commands: argument lists run on this node for the head, their time and output bounded, each id once."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from shoal_bus.errors import Invalid, Unavailable
from shoal_execd.processes import ProcessFailed, watched

_OUTPUT = 256 << 10
_LONGEST = 3600.0
_WAITING = 64
_ERROR = 4000
"""Characters of an error that `NodeExecReply` takes."""
_REMEMBERED = 4 << 20
_MOST_ARGUMENTS = 4096

Reply = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A `NodeExec`: id, argument list, time limit in seconds, and how many bytes of each stream are wanted."""

    id: str
    argv: tuple[str, ...]
    timeout: float
    output: int = _OUTPUT


def parse_command(data: dict[str, Any]) -> Command:
    """Read a `NodeExec`. Raises Invalid."""
    identity, argv, timeout = data.get("id"), data.get("command"), data.get("timeout")
    if not isinstance(identity, str) or not 0 < len(identity) <= 64:
        raise Invalid("field id: expected text of 1 to 64 characters")
    if not isinstance(argv, list) or not 0 < len(argv) <= _MOST_ARGUMENTS:
        raise Invalid(f"field command: expected a list of 1 to {_MOST_ARGUMENTS} arguments")
    if not all(isinstance(each, str) and "\0" not in each for each in argv) or not argv[0]:
        raise Invalid("field command: expected text without null characters, and a program first")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST:
        raise Invalid(f"field timeout: expected seconds, more than 0 and at most {_LONGEST:g}")
    output = data.get("output", _OUTPUT)
    if isinstance(output, bool) or not isinstance(output, int) or not 0 <= output <= _OUTPUT:
        raise Invalid(f"field output: expected bytes, {_OUTPUT} at most")
    return Command(identity, tuple(argv), float(timeout), output)


class Commands:
    """Runs commands, at most `at_once` of them; an id asked for again gets the answer of its one run."""

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._running: dict[str, asyncio.Task[Reply]] = {}
        self._answers: OrderedDict[str, Reply] = OrderedDict()
        self._remembered = 0

    async def answer(self, subject: str, data: dict[str, Any]) -> Reply:
        """A `NodeExec` in, its `NodeExecReply` out. Raises Invalid; Unavailable when too many wait already."""
        command = parse_command(data)
        if command.id in self._answers:
            return self._answers[command.id]
        task = self._running.get(command.id)
        if task is None:
            if len(self._running) >= _WAITING:
                raise Unavailable(f"{_WAITING} commands are running or waiting on this node; try again later")
            task = self._running[command.id] = asyncio.create_task(self._run(command))
        # Asked twice, one caller may go away: the command belongs to both.
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Kill what runs."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(self, command: Command) -> Reply:
        try:
            async with self._free:
                reply = await execute(command)
            self._remember(command.id, reply)
            return reply
        finally:
            del self._running[command.id]

    def _remember(self, identity: str, reply: Reply) -> None:
        self._answers[identity] = reply
        self._remembered += _size(reply)
        while self._remembered > _REMEMBERED:
            _, oldest = self._answers.popitem(last=False)
            self._remembered -= _size(oldest)


def _size(reply: Reply) -> int:
    return len(reply["stdout"]) + len(reply["stderr"]) + 256


async def execute(command: Command) -> Reply:
    """Run a command to its end, or kill its process group when its time is over."""
    outputs = {1: bytearray(), 2: bytearray()}

    def hear(fd: int, data: bytes) -> None:
        outputs[fd] += data[: max(command.output - len(outputs[fd]), 0)]

    code, failure = None, None
    try:
        code = await watched(command.argv, hear, timeout=command.timeout)
    except ProcessFailed as error:
        failure = str(error)[:_ERROR]
    return {"exit_code": code, "stdout": bytes(outputs[1]), "stderr": bytes(outputs[2]), "error": failure}
