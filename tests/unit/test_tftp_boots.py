"""Which boot a node is in: ids, and which stages are news."""

import itertools

import pytest

from shoal_model.subjects import Stage
from shoal_tftp.boots import Boots


@pytest.fixture
def boots() -> Boots:
    numbers = itertools.count()
    return Boots(lambda: f"{next(numbers):016x}")


def test_a_probe_and_a_retry_are_the_same_boot(boots: Boots) -> None:
    first = boots.ask("n1", 0.0)
    assert boots.ask("n1", 0.5) == first
    assert boots.ask("n1", 9.0) == first
    assert boots.current("n1") == first


def test_a_later_request_is_another_boot(boots: Boots) -> None:
    assert boots.ask("n1", 0.0) != boots.ask("n1", 10.1)


def test_after_the_kernel_it_is_another_boot(boots: Boots) -> None:
    first = boots.ask("n1", 0.0)
    assert boots.news("n1", Stage.LOADER_KERNEL)
    assert boots.current("n1") == first
    assert boots.ask("n1", 1.0) != first


def test_a_kernel_that_failed_leaves_the_boot_as_it_is(boots: Boots) -> None:
    first = boots.ask("n1", 0.0)
    assert boots.news("n1", Stage.LOADER_KERNEL, "client went away")
    assert boots.ask("n1", 1.0) == first


def test_nodes_have_boots_of_their_own(boots: Boots) -> None:
    assert boots.ask("n1", 0.0) != boots.ask("n2", 0.0)
    assert boots.current("n3") is None


def test_a_machine_that_is_refused_again_and_again_is_in_one_boot(boots: Boots) -> None:
    first = boots.ask("n1", 0.0, "no release")
    assert [boots.ask("n1", 60.0 * n, "no release") for n in range(1, 5)] == [first] * 4
    assert boots.ask("n1", 241.0, "no image") != first


def test_it_leaves_that_boot_when_it_may_boot(boots: Boots) -> None:
    first = boots.ask("n1", 0.0, "no release")
    assert boots.ask("n1", 1.0) != first


def test_a_stage_is_news_once(boots: Boots) -> None:
    boots.ask("n1", 0.0)
    assert boots.news("n1", Stage.LOADER_CONFIG)
    assert not boots.news("n1", Stage.LOADER_CONFIG)
    assert boots.news("n1", Stage.LOADER_INITRD)
    assert boots.news("n1", Stage.LOADER_INITRD, "lost")
    boots.ask("n1", 100.0)
    assert boots.news("n1", Stage.LOADER_CONFIG)


def test_what_a_node_fetches_before_this_server_knows_of_a_boot_is_news(boots: Boots) -> None:
    assert boots.news("n9", Stage.LOADER_KERNEL)
    assert boots.news("n9", Stage.LOADER_KERNEL)
