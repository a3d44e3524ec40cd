"""What is told once. The clock is a number."""

from shoal_dhcp.notices import Recently, Transactions


def test_the_same_news_is_told_once_in_an_interval() -> None:
    recently = Recently(30.0, 10)
    assert [recently.is_new("a", now) for now in (0, 1, 29.9, 30, 59, 60)] == [True, False, False, True, False, True]


def test_made_up_keys_neither_grow_the_memory_nor_bring_old_news_again() -> None:
    recently = Recently(30.0, 100)
    assert recently.is_new("real", 0.0)
    assert sum(recently.is_new(f"made up {n}", 1.0) for n in range(10_000)) == 99
    assert not recently.is_new("real", 2.0)
    assert recently.is_new("real", 31.0)
    assert recently.is_new("next", 31.0)
    assert len(recently._keys) <= 100
    assert len(recently._order) <= 100


def test_retransmissions_are_no_news() -> None:
    transactions = Transactions()
    assert transactions.is_new("offer", 1, 0.0)
    assert not transactions.is_new("offer", 1, 4.0)
    assert not transactions.is_new("offer", 1, 14.0)
    assert transactions.is_new("offer", 2, 21.0)
    assert transactions.is_new("ack", 1, 21.0)


def test_firmware_whose_boots_all_begin_with_the_same_xid_is_told_of_each_time() -> None:
    transactions = Transactions()
    assert transactions.is_new("offer", 1, 0.0)
    assert not transactions.is_new("offer", 1, 1.0)
    assert transactions.is_new("offer", 1, 17.0)


def test_a_step_is_told_once_a_second_whatever_its_xid() -> None:
    transactions = Transactions()
    assert [transactions.is_new("offer", xid, xid / 10) for xid in range(21)].count(True) == 3
