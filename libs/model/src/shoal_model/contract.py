"""Who says what to whom: every subject with its message, its reply and its ends.

`docs/subjects.md` is generated from this table, and a test holds the running services to it.
"""

from dataclasses import dataclass

from pydantic import BaseModel

from shoal_model import messages as m

NODE, OPERATOR = "node", "operator"


@dataclass(frozen=True)
class Subject:
    """One subject: `<node>`, `<id>` and the like stand for one token; `sender` and `receiver` are services or roles."""

    subject: str
    message: type[BaseModel]
    sender: str
    receiver: str
    reply: type[BaseModel] | None = None


REQUESTS: tuple[Subject, ...] = (
    Subject("rpc.registry.v1.change", m.ChangeRequest, OPERATOR, "registry", m.ChangeReply),
    Subject("rpc.registry.v1.apply", m.ApplyRequest, OPERATOR, "registry", m.ChangeReply),
    Subject("rpc.registry.v1.export", m.Empty, OPERATOR, "registry", m.ExportReply),
    Subject("rpc.registry.v1.list", m.RecordsRequest, "operator, image-builder", "registry", m.RecordsReply),
    Subject("rpc.registry.v1.show-node", m.ShowNodeRequest, OPERATOR, "registry", m.ShowNodeReply),
    Subject("rpc.registry.v1.discovered", m.Empty, OPERATOR, "registry", m.MachinesReply),
    Subject("rpc.registry.v1.publish-image", m.PublishImageRequest, "image-builder", "registry", m.ChangeReply),
    Subject("rpc.registry.v1.publish-rootfs", m.PublishRootfsRequest, "image-builder", "registry", m.ChangeReply),
    Subject("rpc.registry.v1.boot.<node>", m.BootRequest, NODE, "registry", m.BootReply),
    Subject("rpc.fleet.v1.status", m.StatusRequest, OPERATOR, "fleet", m.StatusReply),
    Subject("rpc.fleet.v1.boots", m.BootsRequest, OPERATOR, "fleet", m.BootsReply),
    Subject("rpc.fleet.v1.log", m.LogRequest, OPERATOR, "fleet", m.LogReply),
    Subject("rpc.fleet.v1.exec", m.ExecRequest, OPERATOR, "fleet", m.ExecReply),
    Subject("rpc.image-builder.v1.build", m.BuildRequest, OPERATOR, "image-builder", m.BuildReply),
    Subject(
        "rpc.image-builder.v1.commit-rootfs", m.CommitRootfsRequest, OPERATOR, "image-builder", m.CommitRootfsReply
    ),
    Subject("rpc.image-builder.v1.modules", m.Empty, OPERATOR, "image-builder", m.ModulesReply),
    Subject("rpc.mcastd.v1.join.<node>", m.JoinRequest, NODE, "mcastd", m.JoinReply),
    Subject("rpc.mcastd.v1.leave.<node>", m.LeaveRequest, NODE, "mcastd", m.Empty),
    Subject("rpc.mcastd.v1.sessions", m.Empty, OPERATOR, "mcastd", m.SessionsReply),
    Subject("rpc.execd-config.v1.announce.<node>", m.AnnounceRequest, NODE, "execd-config", m.AnnounceReply),
    Subject("rpc.auth.v1.arm", m.ArmRequest, OPERATOR, "auth", m.ArmedReply),
    Subject("rpc.auth.v1.armed", m.Empty, OPERATOR, "auth", m.ArmedReply),
    Subject("rpc.auth.v1.bindings", m.BindingsRequest, OPERATOR, "auth", m.BindingsReply),
    Subject("rpc.auth.v1.revoke", m.RevokeRequest, OPERATOR, "auth", m.RevokeReply),
    Subject("rpc.auth.v1.quarantine", m.Empty, OPERATOR, "auth", m.QuarantineReply),
    Subject("rpc.auth.v1.decide", m.DecideRequest, OPERATOR, "auth", m.Quarantined),
    Subject("rpc.auth.v1.announce-reboot.<node>", m.AnnounceRebootRequest, NODE, "auth", m.AnnounceRebootReply),
    Subject("rpc.execd-config.v1.preview", m.PreviewRequest, OPERATOR, "execd-config", m.PreviewReply),
)
"""Request and reply; the queue group is the service's name."""

EVENTS: tuple[Subject, ...] = (
    Subject("evt.<kind>.<name>.changed", m.Changed, "registry", OPERATOR),
    Subject("evt.image.<name>.published", m.ImagePublished, "registry", OPERATOR),
    Subject("evt.machine.<mac>.seen", m.MachineSeen, "dhcp", "registry"),
    Subject("evt.boot.<node>.<stage>", m.BootEvent, "dhcp, tftp, auth, node", "fleet, mcastd"),
    Subject("evt.node.<node>.log", m.LogLines, NODE, "fleet"),
    Subject("evt.identity.<node>.alarm", m.IdentityAlarm, "auth", OPERATOR),
    Subject("evt.identity.<node>.changed", m.IdentityChanged, "auth", OPERATOR),
    Subject("evt.job.<id>.progress", m.JobProgress, "image-builder", OPERATOR),
    Subject("evt.job.<id>.done", m.JobDone, "image-builder", OPERATOR),
    Subject("evt.session.<id>.started", m.SessionInfo, "mcastd", OPERATOR),
    Subject("evt.session.<id>.ended", m.SessionInfo, "mcastd", OPERATOR),
)
"""Kept in stream EVENTS. Nodes say theirs where `subjects.told` puts them."""

NODE_TOPICS: tuple[Subject, ...] = (
    Subject("node.<node>.options", m.NodeOptions, "execd-config", NODE),
    Subject("node.<node>.exec", m.NodeExec, "fleet", NODE, m.NodeExecReply),
    Subject("node.<node>.heartbeat", m.Heartbeat, NODE, "fleet"),
)
"""Core NATS: sent to whoever listens now."""

JOBS: tuple[Subject, ...] = (Subject("job.image.build", m.BuildImageJob, "registry, image-builder", "image-builder"),)
"""Work queue JOBS."""
