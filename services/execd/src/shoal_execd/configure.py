"""Configure mode: get the node's options over its own subject, and make the node what they say."""

import asyncio
import io
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from shoal_bus.connection import Connection
from shoal_bus.errors import BusError
from shoal_execd import RELEASE
from shoal_execd.actions import ActionFailed, perform
from shoal_execd.archives import LARGEST_ARCHIVE, ArchiveError, unpack
from shoal_execd.handover import GENERATION_FILE
from shoal_execd.http_source import SourceFailed, fetch_blob
from shoal_execd.journal import Journal
from shoal_execd.node_options import Action, Archive, Blob, File, Options, OptionsError, parse_options
from shoal_execd.pauses import Pauses
from shoal_execd.places import PlaceError, write_file
from shoal_execd.timeline import DEGRADED, Timeline
from shoal_model import subjects
from shoal_model.subjects import Service, Stage

_ANNOUNCE = 10.0
_ARRIVE = 5.0
_SAY_AGAIN = 60.0
_ROUNDS = 5


async def await_options(bus: Connection, timeline: Timeline) -> Options:
    """The node's options. Announces the node until they come, with the reason in the timeline once a minute."""
    arrived: asyncio.Queue[Options] = asyncio.Queue(maxsize=1)

    async def take(subject: str, data: dict[str, Any]) -> None:
        try:
            options = parse_options(data, timeline.node)
        except OptionsError as error:
            timeline.event(Stage.EXECD_OPTIONS, status=DEGRADED, reason=f"options refused: {error}")
            return
        if arrived.full():
            arrived.get_nowait()  # only the newest counts
        arrived.put_nowait(options)

    listening = await bus.subscribe(subjects.node_topic(timeline.node, "options"), take)
    try:
        return await _announce_until(bus, timeline, arrived)
    finally:
        await listening.stop()


async def _announce_until(bus: Connection, timeline: Timeline, arrived: asyncio.Queue[Options]) -> Options:
    subject = subjects.rpc(Service.EXECD_CONFIG, "announce", timeline.node)
    request = {"boot": timeline.boot, "release": RELEASE}
    pauses, said = Pauses(first=0.5, longest=15.0), float("-inf")
    loop = asyncio.get_running_loop()
    while True:
        try:
            await bus.request(subject, request, timeout=_ANNOUNCE)
            options = await _within(_ARRIVE, arrived)
            reason = f"announced, but no options came within {_ARRIVE:g} s"
        except BusError as error:
            options, reason = None, str(error)
        if options is None and loop.time() - said >= _SAY_AGAIN:
            said = loop.time()
            timeline.event(Stage.EXECD_OPTIONS, status=DEGRADED, reason=f"no options yet: {reason}; still trying")
        # Where the records did not say enough yet, the head sends options by itself as soon as they do.
        options = options or await _within(pauses.next(), arrived)
        if options is not None:
            return options


async def _within(seconds: float, arrived: asyncio.Queue[Options]) -> Options | None:
    try:
        async with asyncio.timeout(seconds):
            return await arrived.get()
    except TimeoutError:
        return None


@dataclass
class Outcome:
    """What became of the options: how many parts were done, and the reason of each that was not."""

    files: int = 0
    archives: int = 0
    actions: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Configurator:
    """Makes the tree below `root` what options say. `pause` waits so many seconds before content is asked for again.

    With `tls`, content comes from sources with https:// alone: options are secret.
    """

    root: Path
    run: Path
    node: str
    journal: Journal
    pause: Callable[[float], None]
    take: Callable[[Action, Path], None] = perform
    tls: ssl.SSLContext | None = None

    def apply(self, options: Options) -> Outcome:
        """Files, customizations over them, then actions; a part that fails does not stop the others. Blocking."""
        outcome = Outcome()
        for file in options.files:
            outcome.files += self._tried(outcome, lambda file=file: self._file(file, options))  # type: ignore[misc]
        for archive in options.archives:
            outcome.archives += self._tried(outcome, lambda each=archive: self._archive(each, options))  # type: ignore[misc]
        for action in options.actions:
            outcome.actions += self._tried(outcome, lambda action=action: self.take(action, self.root))  # type: ignore[misc]
        self.run.mkdir(parents=True, exist_ok=True)
        (self.run / GENERATION_FILE).write_text(options.generation + "\n")
        return outcome

    def _tried(self, outcome: Outcome, part: Callable[[], None]) -> bool:
        try:
            part()
        except (ActionFailed, ArchiveError, PlaceError, SourceFailed) as error:
            failure = str(error)
        except OSError as error:
            failure = f"{error.filename or 'a file'}: {error.strerror}"
        else:
            return True
        self.journal.info(f"failed: {failure}")
        outcome.failures.append(failure)
        return False

    def _file(self, file: File, options: Options) -> None:
        content = file.content
        if content is None:
            memory = io.BytesIO()
            self._fetch(file.blob, options.sources, memory)
            content = memory.getvalue()
        write_file(self.root, file.path, content, file.mode, file.owner)
        self.journal.info(f"wrote {file.path} ({len(content)} bytes, {file.mode:04o})")

    def _archive(self, archive: Archive, options: Options) -> None:
        if archive.blob.size > LARGEST_ARCHIVE:
            raise ArchiveError(
                f"customization {archive.name} has {archive.blob.size} bytes: more than {LARGEST_ARCHIVE}"
            )
        with tempfile.TemporaryFile(dir=self.run) as content:
            self._fetch(archive.blob, options.sources, content)
            content.seek(0)
            members = unpack(content, self.root, archive.name)
        self.journal.info(f"unpacked customization {archive.name}: {members} members")

    def _fetch(self, blob: Blob, sources: tuple[str, ...], target: BinaryIO) -> None:
        pauses = Pauses(first=0.5, longest=8.0)
        reasons: list[str] = []
        proven = [base for base in sources if self.tls is None or base.startswith("https://")]
        if not proven:
            raise SourceFailed(f"no source of {blob.sha256[:12]} speaks https://: {', '.join(sources)}")
        for turn in range(_ROUNDS):
            reasons = []
            for base in proven:
                target.seek(0)
                target.truncate()
                try:
                    return fetch_blob(base, blob, self.node, target, self.tls)
                except SourceFailed as error:
                    reasons.append(str(error))
            if turn + 1 < _ROUNDS:
                self.pause(pauses.next())
        raise SourceFailed(f"no source has {blob.sha256[:12]}: {'; '.join(reasons)}")


def report(timeline: Timeline, options: Options, outcome: Outcome) -> None:
    """The event `execd.configured`: degraded, with the reasons, if any part failed."""
    timeline.event(
        Stage.EXECD_CONFIGURED,
        {
            "generation": options.generation,
            "files": outcome.files,
            "customizations": outcome.archives,
            "actions": outcome.actions,
        },
        status=DEGRADED if outcome.failures else "ok",
        reason="; ".join(outcome.failures),
    )
