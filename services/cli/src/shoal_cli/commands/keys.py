"""`shoal node keys|revoke`: who speaks for nodes, and who does no more."""

import click

from shoal_bus.api import Bus
from shoal_cli import nodesets, registry
from shoal_cli.commands.quarantine import KEY_SHOWN
from shoal_cli.options import examples, output, pass_session
from shoal_cli.session import Session
from shoal_cli.terminal import Format, out, plain, show_data, show_table
from shoal_model.messages import Binding, BindingsReply, BindingsRequest, RevokeReply, RevokeRequest
from shoal_model.subjects import Service, rpc

_MANY = 60.0


@click.command(epilog=examples("shoal node keys", "shoal node keys n[001-100] -o json"))
@click.argument("target", metavar="[NODES]", required=False)
@output
@pass_session
def keys(session: Session, target: str | None, form: Format) -> None:
    """Show who speaks for nodes: the key that each was let in with, from where, and since when."""

    async def body(bus: Bus) -> list[Binding]:
        chosen = [] if target is None else await registry.nodes(bus, target)
        request = BindingsRequest(nodes=chosen)
        return (await bus.call(rpc(Service.AUTH, "bindings"), request, BindingsReply, timeout=_MANY)).bindings

    bindings = sorted(session.run(body), key=lambda binding: binding.node)
    if form is Format.TABLE:
        show_table(["node", "key", "address", "mac", "boot", "since", "revoked"], [_row(each) for each in bindings])
    else:
        show_data([binding.model_dump(mode="json", exclude_none=True) for binding in bindings], form)


def _row(binding: Binding) -> list[str]:
    party = binding.party
    return [
        binding.node,
        party.key[:KEY_SHOWN],
        party.address,
        plain(party.mac),
        plain(party.boot),
        plain(party.at),
        plain(binding.revoked),
    ]


@click.command(epilog=examples("shoal node revoke n017"))
@click.argument("target", metavar="NODES")
@pass_session
def revoke(session: Session, target: str) -> None:
    """Cut NODES off: the key that each was let in with is worth nothing any more.

    What runs there goes on without the head, and no boot of NODES is expected any more. A node comes back by one that
    is: `shoal boot arm`.
    """

    async def body(bus: Bus) -> tuple[list[str], RevokeReply]:
        chosen = await registry.nodes(bus, target)
        request = RevokeRequest(nodes=chosen, author=session.author)
        return chosen, await bus.call(rpc(Service.AUTH, "revoke"), request, RevokeReply, timeout=_MANY)

    chosen, reply = session.run(body)
    if reply.nodes:
        cut = f"{reply.connections} connection{'' if reply.connections == 1 else 's'} cut"
        out(f"revoked: {nodesets.fold(reply.nodes)}; {cut}")
    rest = [node for node in chosen if node not in set(reply.nodes)]
    if rest:
        out(f"nobody spoke for: {nodesets.fold(rest)}; no boot of them is expected")
