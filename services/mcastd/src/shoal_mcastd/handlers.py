"""Message in, message out."""

from shoal_bus.api import Endpoint
from shoal_bus.errors import Invalid
from shoal_mcastd.sessions import Sessions
from shoal_model import subjects
from shoal_model.messages import Empty, JoinReply, JoinRequest, LeaveRequest, SessionsReply
from shoal_model.subjects import Service


class Handlers:
    """What mcastd answers."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def endpoints(self) -> list[Endpoint]:
        """The verbs of `rpc.mcastd.v1`."""
        return [
            Endpoint(subjects.rpc_of_every_node(Service.MCASTD, "join"), JoinRequest, self.join),
            Endpoint(subjects.rpc_of_every_node(Service.MCASTD, "leave"), LeaveRequest, self.leave),
            Endpoint(subjects.rpc(Service.MCASTD, "sessions"), Empty, self.sessions),
        ]

    async def join(self, subject: str, request: JoinRequest) -> JoinReply:
        """`rpc.mcastd.v1.join.<node>`."""
        return await self._sessions.join(_node(subject), request)

    async def leave(self, subject: str, request: LeaveRequest) -> Empty:
        """`rpc.mcastd.v1.leave.<node>`."""
        await self._sessions.leave(_node(subject), request)
        return Empty()

    async def sessions(self, subject: str, request: Empty) -> SessionsReply:
        """`rpc.mcastd.v1.sessions`."""
        return SessionsReply(sessions=self._sessions.list())


def _node(subject: str) -> str:
    try:
        return subjects.node_in(subject)
    except ValueError as error:
        raise Invalid(str(error)) from None
