"""What is told of JetStream's refusals."""

import pytest

from shoal_bus.jetstream import JetStreamError


@pytest.mark.parametrize(
    ("code", "description", "asked"),
    [
        (10077, "write /x/1.blk: no space left on device", True),
        (10176, "batch publish is incomplete", True),
        (10077, "maximum bytes exceeded", False),
        (10077, "maximum messages per subject exceeded", False),
        (10059, "stream not found", False),
    ],
)
def test_a_store_that_fails_makes_one_think_of_its_disk(code: int, description: str, asked: bool) -> None:
    told = str(JetStreamError("records", {"err_code": code, "description": description}))
    assert told.startswith(f"records: {description} ({code})")
    assert told.endswith("; is the disk of the head full?") == asked
