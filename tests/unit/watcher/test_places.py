from collections import Counter

from watcher.places import UNKNOWN, Places


def test_a_child_of_an_unknown_owner_counts_as_everybodys():
    places = Places(8, Counter({1: 3, 2: 2, UNKNOWN: 1}), 0)
    assert places.closed_to(UNKNOWN) == [1]
    assert places.closed_to(1) == []
    places.take(UNKNOWN)
    assert places.closed_to(UNKNOWN) == [1, 2]


def test_when_all_places_are_taken_an_unknown_file_is_only_for_who_has_none():
    places = Places(8, Counter({1: 4, 2: 3, 3: 1}), 0)
    assert places.closed_to(UNKNOWN) == [1, 2, 3]
    assert places.has_room(4)
    assert not places.has_room(3)


def test_a_watcher_with_one_place_serves_every_user():
    places = Places(1, Counter({1: 1}), 0)
    assert not places.has_room(1)
    assert places.has_room(2)
