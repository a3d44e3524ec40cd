"""When a program of a head counts as unwell."""

from shoal_cli.up.health import Record


def test_three_bad_answers_in_a_row_of_one_process_are_too_many() -> None:
    record = Record()
    assert [record.hear(1, "x") for _ in range(3)] == [False, False, True]
    assert not record.hear(1, None)
    assert [record.hear(1, "x") for _ in range(2)] == [False, False]
    assert [record.hear(2, "x") for _ in range(3)] == [False, False, True]


def test_what_was_restarted_is_given_more_and_more_time_until_it_was_well() -> None:
    record = Record()
    needed = []
    for pid in range(1, 8):
        count = 1
        while not record.hear(pid, "x"):
            count += 1
        needed.append(count)
        record.restarted()
    assert needed == [3, 6, 12, 24, 48, 48, 48]
    record.hear(9, None)
    assert [record.hear(9, "x") for _ in range(3)] == [False, False, True]
