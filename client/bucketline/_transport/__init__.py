"""Requests over HTTP, repeated until a deadline, at one coordinator or at several replicas of it.

| module | its one job |
| --- | --- |
| `transport` | repeats attempts, at whichever replica is next, until one succeeds or the deadline passes |
| `replica` | one attempt at one replica, and what its answer means; the only module that calls httpx |
| `answers` | whether an answer is the coordinator's own, or that of a proxy, an ingress or a login page |
| `failures` | why an attempt failed, and the error for a deadline that passed |
| `retry` | how long to wait between attempts |
| `failover` | which replica is asked next |
| `first_contact` | whether any coordinator has ever answered: a wrong address is reported early |
| `urls`, `proxies`, `tls` | the addresses, the way to them, and whom to trust there |

Every request of this package is safe to repeat: a lease goes to the same holder again, `next` reads and
acknowledges absolute places, a session is idempotent by its name, and the operator's calls put whole things under
names. It is safe to repeat at another replica too, even if the first one did what it was asked and died before it
answered, because the replicas share the store, and the store is what makes a repetition harmless.
"""
