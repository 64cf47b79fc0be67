"""What a soak makes of its samples: growth that is a fault, and the figures of each minute."""

from __future__ import annotations

from tests.labs.soak.samples import DESCRIPTORS, ENTRY, MEMORY, Sample, growth, minutes, panels, table


def sample(number: int, *, memory: float = 60.0, descriptors: int = 900, entries: int = 0) -> Sample:
    return Sample(10.0 * (number + 1), 1000, memory, descriptors, entries, 0.01 * number)


STEADY = [sample(number) for number in range(30)]


def test_a_steady_guard_has_no_growth() -> None:
    assert growth(STEADY) == []


def test_memory_that_grows_beyond_its_bound_is_found() -> None:
    over = [sample(number, memory=60.0 + MEMORY + 0.1) for number in range(20, 30)]
    under = [sample(number, memory=60.0 + MEMORY) for number in range(20, 30)]
    assert growth(STEADY[:20] + under) == []
    (fault,) = growth(STEADY[:20] + over)
    assert fault.startswith("memory grew from 60.0 to 76.1 MiB, with 0 entries more")


def test_journals_that_fill_up_may_take_their_memory() -> None:
    grown = 60.0 + MEMORY + 1000 * ENTRY
    assert growth(STEADY[:20] + [sample(n, memory=grown, entries=1000) for n in range(20, 30)]) == []
    assert growth(STEADY[:20] + [sample(n, memory=grown + 0.1, entries=1000) for n in range(20, 30)]) != []


def test_descriptors_that_grow_beyond_their_bound_are_found() -> None:
    over = [sample(number, descriptors=901 + DESCRIPTORS) for number in range(20, 30)]
    assert growth(STEADY[:20] + over) == ["descriptors grew from 900 to 925"]
    assert growth(STEADY[:20] + [sample(n, descriptors=900 + DESCRIPTORS) for n in range(20, 30)]) == []


def test_too_few_samples_are_a_fault() -> None:
    assert growth(STEADY[:2]) == ["the soak was too short to tell growth: it needs three samples"]


def test_a_minute_has_its_throughput_and_its_worst_wait() -> None:
    rows = minutes(STEADY)
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert {row.throughput for row in rows} == {100.0}
    assert [round(row.worst, 2) for row in rows] == [0.05, 0.11, 0.17, 0.23, 0.29]


def test_a_sample_that_came_late_counts_for_the_minute_that_it_ends() -> None:
    assert [row.number for row in minutes([Sample(60.3, 1, 1.0, 1, 0, 0.0), Sample(70.2, 1, 1.0, 1, 0, 0.0)])] == [1, 2]


def test_the_table_and_the_plot_have_each_minute() -> None:
    rows = minutes(STEADY)
    assert len(table(rows).splitlines()) == 6
    assert {len(values) for values in panels(rows).values()} == {5}  # five minutes
