"""Permissions that count for root as well."""

from __future__ import annotations

import ctypes
import os

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
CAPABILITY_VERSION = 0x20080522


def obey_permissions() -> None:
    """Run in a child before it starts: neither it nor what it starts may pass over permissions from then on."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, masks = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()

    def done(status: int) -> None:
        assert status == 0, os.strerror(ctypes.get_errno())

    done(libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0))
    done(libc.capget(header, masks))
    for kind in range(3):  # effective, permitted, inheritable
        masks[kind] &= ~(1 << CAP_DAC_OVERRIDE)
    done(libc.capset(header, masks))
