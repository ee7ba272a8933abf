"""Groups that grow together pair by pair are the connected components, each led by its first place."""

from hypothesis import given
from hypothesis import strategies as st

from qbawa.replay.replay_set.near_duplicates import first_of_groups

PLACES = 12


@given(st.lists(st.tuples(st.integers(0, PLACES - 1), st.integers(0, PLACES - 1)), max_size=15))
def test_a_group_is_what_pairs_connect_and_is_led_by_its_first(pairs: list[tuple[int, int]]) -> None:
    groups = [{place} for place in range(PLACES)]
    for a, b in pairs:
        if groups[a] is not groups[b]:
            groups[a] |= groups[b]
            for place in groups[b]:
                groups[place] = groups[a]
    assert first_of_groups(PLACES, pairs) == [min(group) for group in groups]


def test_no_place_has_no_group() -> None:
    assert first_of_groups(0, []) == []
