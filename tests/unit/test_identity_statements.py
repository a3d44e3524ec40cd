"""What a node says with its key: of this node, of this boot, with this key, and nothing else."""

import pytest

from shoal_identity.keys import Key
from shoal_identity.statements import say_reboot, says_reboot

KEY, OTHER = Key.new(), Key.new()
SAID = say_reboot("n001", "b1", KEY)


def test_a_node_says_that_it_boots_again() -> None:
    assert says_reboot("n001", "b1", KEY.public, SAID)
    assert KEY.sign(b"shoal reboot\0n001\0b1") == SAID


@pytest.mark.parametrize(
    ("node", "boot", "key", "signature"),
    [
        ("n002", "b1", KEY.public, SAID),
        ("n001", "b2", KEY.public, SAID),
        ("n001", "b1", OTHER.public, SAID),
        ("n001", "b1", KEY.public, SAID[:-1]),
        ("n001", "b1", KEY.public, b""),
        ("n001", "b1", "rubbish", SAID),
        ("n001", "b1", KEY.public, KEY.sign(b"n001\0b1")),
    ],
)
def test_and_nothing_else(node: str, boot: str, key: str, signature: bytes) -> None:
    assert not says_reboot(node, boot, key, signature)
