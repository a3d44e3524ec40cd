"""A node as stage 1 is one, without the boot around it: joins over the bus, receives, falls back to HTTP, leaves.

Run as a program with one JSON argument; prints one JSON line of what happened.
"""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shoal_bus.connection import connect
from shoal_identity import trust
from shoal_mcast.client import Deadlines, receive_image
from shoal_mcast.http_ranges import fetch_missing
from shoal_mcast.image_file import ImageFile
from shoal_mcast.session import Join


async def receive(plan: dict[str, Any]) -> dict[str, Any]:
    """Get the image that the plan names; the outcomes of both ways."""
    tls = trust.parse(Path(plan["ca"]).read_bytes()).client_context()  # noqa: ASYNC240 - nothing else runs yet
    bus = await connect(servers=[plan["nats"]], name=plan["node"])
    request = {"boot": plan["node"] * 3, "image": plan["image"], "address": plan["address"], "missing": None}
    reply = await bus.request(f"rpc.mcastd.v1.join.{plan['node']}", request, 10.0)
    join = Join.from_map(reply)
    print(json.dumps({"joined": join.session}), flush=True)
    with ImageFile.open(Path(plan["target"]), join.geometry(), plan["blocks"]) as image:
        deadlines = Deadlines(beacon=plan["beacon"])
        outcome = await asyncio.to_thread(receive_image, image, join, interface="boot0", deadlines=deadlines)
        leave = {
            "boot": request["boot"],
            "session": join.session,
            "complete": outcome.complete,
            "reason": outcome.reason,
        }
        await bus.request(f"rpc.mcastd.v1.leave.{plan['node']}", leave, 10.0)
        kept = image.verified.count(1)
        urls = [str(reply["http"])]
        fetched = None if outcome.complete else await asyncio.to_thread(fetch_missing, image, urls, tls=tls)
    await bus.close()
    return {
        "session": join.session, "multicast": asdict(outcome), "kept": kept,
        "http": None if fetched is None else asdict(fetched),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(asyncio.run(receive(json.loads(sys.argv[1])))), flush=True)
