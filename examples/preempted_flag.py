# SPDX-License-Identifier: GPL-2.0-or-later
"""VCPU 0 watches the flag of VCPU 1 while a script puts VCPU 1 on a CPU and takes it off.

What is printed is what the guest itself saw, at the guest's own time.
"""

import struct

from pvlock import Machine, Placement
from pvlock.memory_map import RAM_BASE

WATCH = struct.pack(
    "<8I",
    0x92800003,  #    mov  x3, #-1          nothing seen yet
    0xF9400002,  # 1: ldr  x2, [x0]         the flag of VCPU 1
    0xEB03005F,  #    cmp  x2, x3
    0x54FFFFC0,  #    b.eq 1b
    0xAA0203E3,  #    mov  x3, x2
    0xD53BE044,  #    mrs  x4, cntvct_el0   virtual time: 1 tick = 1 ns
    0xA8810824,  #    stp  x4, x2, [x1], #16
    0x17FFFFFA,  #    b    1b
)
SPIN = struct.pack("<I", 0x14000000)  # b .
LOG = RAM_BASE + 0x10000

# Times in ns. CPU 1 belongs to VCPU 1, to nobody, to VCPU 1, to nobody.
SCRIPT = [
    Placement(0, cpu=0, vcpu=0),
    Placement(20_000, cpu=1, vcpu=1),
    Placement(50_000, cpu=1, vcpu=None),
    Placement(70_000, cpu=1, vcpu=1),
    Placement(90_000, cpu=1, vcpu=None),
]

with Machine(vcpus=2, pcpus=2, engine="emulator", script=SCRIPT, record=True) as machine:
    machine.memory.write(RAM_BASE, WATCH, "watch")
    machine.memory.write(RAM_BASE + 0x1000, SPIN, "spin")
    machine.vcpus[0].start(RAM_BASE, x0=machine.pvlock.addresses[1])
    machine.vcpus[0].set("x1", LOG)
    machine.vcpus[1].start(RAM_BASE + 0x1000)
    machine.run(100_000)

    print("what the host did with VCPU 1:")
    for switch in machine.switches():
        if switch.vcpu == 1:
            what = "on CPU 1" if switch.reason is None else f"off ({switch.reason})"
            print(f"  {switch.time_ns / 1000:5.1f} µs  {what}")
    print("what VCPU 0 read in the structure of VCPU 1:")
    end = machine.vcpus[0].get("x1")
    for entry in range(LOG, end, 16):
        time, flag = struct.unpack("<QQ", machine.memory.read(entry, 16, "log"))
        print(f"  {time / 1000:5.1f} µs  preempted = {flag}")
