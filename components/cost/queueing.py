"""Waiting for a free place: Erlang's formula, and its approximation for service times that are not exponential."""

from __future__ import annotations

import math

_MANY = 10_000  # servers, from where on the limit of many is within a percent


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arriving request has to wait in M/M/c: Erlang (1917). `load`: arrivals times service time, in
    servers; 1 where it reaches `servers`."""
    if servers < 1 or not load >= 0:
        raise ValueError(f"takes at least one server and a load of at least 0, got {servers}, {load}")
    if load >= servers:
        return 1.0
    if servers > _MANY:  # Halfin and Whitt (1981)
        spare = (servers - load) / math.sqrt(servers)
        density = math.exp(-(spare**2) / 2) / math.sqrt(2 * math.pi)
        return density / (density + spare * 0.5 * math.erfc(-spare / math.sqrt(2)))
    blocked = 1.0  # Erlang B by its recurrence, which stays in range where factorials do not
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1.0 - load / servers * (1.0 - blocked))


def wait_quantile(
    servers: int, arrivals: float, service_seconds: float, quantile: float = 0.9, variation: float = 1.0
) -> float:
    """Seconds that all but `1 - quantile` of requests wait at most; inf where the load reaches the servers.

    M/G/c by Allen and Cunneen (1990): waiting of M/M/c times (1 + variation²)/2, with `variation` the coefficient of
    variation of the service time. Those that wait at all wait exponentially long.
    """
    load = arrivals * service_seconds
    if load >= servers:
        return math.inf
    waiting = erlang_c(servers, load)
    if waiting <= 1.0 - quantile:
        return 0.0
    mean_of_those = service_seconds / (servers - load) * (1.0 + variation**2) / 2.0
    return mean_of_those * math.log(waiting / (1.0 - quantile))
