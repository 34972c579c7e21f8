# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest of seven instructions asks the hypervisor where its PV-lock structure is."""

import struct

from pvlock import Machine
from pvlock.memory_map import RAM_BASE

GUEST = struct.pack(
    "<7I",
    0x52800420,  # mov  w0, #0x21
    0x72B8C000,  # movk w0, #0xc600, lsl #16    PV_LOCK_PREEMPTED
    0xD4000002,  # hvc  #0
    0xAA0003F3,  # mov  x19, x0
    0x52800100,  # mov  w0, #8
    0x72B08000,  # movk w0, #0x8400, lsl #16    SYSTEM_OFF
    0xD4000002,  # hvc  #0
)

with Machine(vcpus=1) as machine:
    machine.memory.write(RAM_BASE, GUEST, "ten_lines")
    machine.vcpus[0].start(RAM_BASE)
    event = machine.run(1_000_000)
    print(f"the guest turned the machine {event} after {machine.usage().time_ns} ns")
    print(f"its PV-lock structure is at IPA {machine.vcpus[0].get('x19'):#x}")
    print(f"preempted = {machine.vcpus[0].preempted}")
