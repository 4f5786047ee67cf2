"""Whose answer is this? From the request ids of a worker's context to the clients and their tokens."""

from __future__ import annotations

import bisect
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from daqca.events import Kind, Records, different
from daqca.link import asked

_READ = np.uint8(Kind.READ)


class Route:
    """`n` requests that one client made together.

    Attributes
    ----------
    first, token
        The id of the first request in the context, and its token at the client; the others follow.
    left
        How many are not answered.
    mask
        Not 0: the answers are to look like what subscriptions with this mask send.
    """

    __slots__ = ("client", "first", "left", "mask", "n", "token")

    def __init__(self, first: int, n: int, client: bytes, token: int, mask: int = 0):
        self.first = first
        self.n = n
        self.client = client
        self.token = token
        self.left = n
        self.mask = mask


class Sorted(NamedTuple):
    """Records of a batch, with those who get them."""

    records: Records
    owners: npt.NDArray[np.uint8]
    """Index into `clients` for each record, 255 for everybody."""
    clients: list[bytes]


EVERYBODY = 255


def is_answer(records: Records) -> npt.NDArray[np.bool_]:
    """Which records answer a request, shape (n,)."""
    # One comparison for the three kinds, which follow each other; the others wrap round.
    answers: npt.NDArray[np.bool_] = (records["kind"] - _READ) <= Kind.FAILED - Kind.READ
    answers &= records["token"] != 0
    return answers


class Routes:
    """The requests under way of all clients of a worker, by id.

    Attributes
    ----------
    strays
        Answers that nobody waits for any more.
    """

    def __init__(self) -> None:
        self.strays = 0
        self._routes: list[Route] = []
        self._firsts: list[int] = []
        self._by_token: dict[tuple[bytes, int], Route] = {}

    def __len__(self) -> int:
        return len(self._routes)

    def add(self, route: Route) -> None:
        """Remember requests that were made just now."""
        if self._firsts and route.first < self._firsts[-1]:
            place = bisect.bisect(self._firsts, route.first)
            self._routes.insert(place, route)
            self._firsts.insert(place, route.first)
        else:
            self._routes.append(route)
            self._firsts.append(route.first)
        if not route.mask:
            self._by_token[route.client, route.token] = route

    def cancel(self, client: bytes, token: int) -> Route | None:
        """Forget the requests that begin with a token of a client; returns what they were."""
        route = self._by_token.get((client, token))
        if route is not None:
            self._discard(route)
        return route

    def forget(self, client: bytes) -> list[Route]:
        """Forget all requests of a client; returns what they were."""
        routes = [route for route in self._routes if route.client == client]
        for route in routes:
            self._discard(route)
        return routes

    def pending(self, client: bytes) -> npt.NDArray[np.uint32]:
        """First token and number of unanswered requests of all that a client waits for, shape (n, 2)."""
        pairs = [(route.token, route.left) for route in self._routes if route.client == client and not route.mask]
        return np.array(pairs, np.uint32).reshape(-1, 2)

    def _discard(self, route: Route) -> None:
        place = bisect.bisect_left(self._firsts, route.first)
        if place < len(self._routes) and self._routes[place] is route:
            del self._routes[place], self._firsts[place]
        self._by_token.pop((route.client, route.token), None)

    def resolve(self, records: Records, answers: npt.NDArray[np.bool_]) -> Sorted:
        """Give the answers among `records` the tokens of their clients.

        Parameters
        ----------
        records
            Events in order; changed in place.
        answers
            See `is_answer`; at least one is true.

        Returns
        -------
        The records (less the answers that nobody waits for) and their owners, in the same order.
        """
        tokens = records["token"] if answers.all() else records["token"][answers]
        route = self._find(int(tokens[0]))
        if route is not None:
            places = tokens - np.uint32(route.first)  # wraps round for ids before the first
            if len(tokens) <= route.left and (places < route.n).all():
                return self._one_owner(records, answers, places, route)
        return self._many_owners(records, answers, tokens)

    def _find(self, id_: int) -> Route | None:
        place = bisect.bisect(self._firsts, id_) - 1
        if place >= 0 and id_ - self._firsts[place] < self._routes[place].n:
            return self._routes[place]
        return None

    def _answered(self, route: Route, n: int) -> None:
        route.left -= n
        if route.left <= 0:
            self._discard(route)

    def _one_owner(
        self, records: Records, answers: npt.NDArray[np.bool_], places: npt.NDArray[np.uint32], route: Route
    ) -> Sorted:
        self._answered(route, len(places))
        if route.mask:
            records["token"][answers] = route.mask
            failed = answers & (records["kind"] == Kind.FAILED)
            records["kind"][answers & ~failed] = asked(route.mask)[2]
            if failed.any():  # what cannot be read has no value to update
                records, answers = records[~failed], answers[~failed]
        else:
            records["token"][answers] = places + np.uint32(route.token)
        owners = np.where(answers, 0, EVERYBODY).astype(np.uint8)
        return Sorted(records, owners, [route.client])

    def _many_owners(self, records: Records, answers: npt.NDArray[np.bool_], tokens: npt.NDArray[np.uint32]) -> Sorted:
        """Answers to several requests: still no loop over events, but one over requests."""
        clients: dict[bytes, int] = {}
        owners = np.full(len(records), EVERYBODY, np.uint8)
        where = np.flatnonzero(answers)
        keep = ~answers
        firsts = np.array(self._firsts, np.int64)
        routes = np.searchsorted(firsts, tokens, "right") - 1
        found = 0
        for number in different(routes[routes >= 0]).tolist():
            route = self._routes[number]
            places = tokens - np.uint32(route.first)
            mine = (routes == number) & (places < route.n)
            rows = where[mine]
            found += len(rows)
            if route.mask:
                failed = records["kind"][rows] == Kind.FAILED
                records["token"][rows] = route.mask
                records["kind"][rows[~failed]] = asked(route.mask)[2]
                keep[rows[~failed]] = True
            else:
                records["token"][rows] = places[mine] + np.uint32(route.token)
                keep[rows] = True
            owners[rows] = clients.setdefault(route.client, len(clients))
            route.left -= len(rows)
        for route in [route for route in self._routes if route.left <= 0]:
            self._discard(route)
        if not keep.all():
            self.strays += len(where) - found
            records, owners = records[keep], owners[keep]
        return Sorted(records, owners, list(clients))
