"""Groups that grow together pair by pair are the connected components."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qbawa.groups import joined

PLACES = 12
pairs = st.lists(st.tuples(st.integers(0, PLACES - 1), st.integers(0, PLACES - 1)), max_size=15)


@given(pairs, pairs)
def test_a_group_is_what_pairs_connect_and_is_led_by_its_first(before: list, after: list) -> None:
    found = joined(joined(range(PLACES), before), after)
    rows, columns = np.array(before + after, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(PLACES, PLACES))
    _, group = connected_components(graph, directed=False)
    assert found == [int(np.flatnonzero(group == group[place])[0]) for place in range(PLACES)]
