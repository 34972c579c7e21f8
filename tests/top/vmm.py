# SPDX-License-Identifier: GPL-2.0-or-later
"""A VMM of a page: VCPUs that never stop, or that halt, on an x86 host. Run as a program.

python vmm.py SPIN HALT CPU [POLICY [lie]]: that many VCPUs of each kind, all on this CPU. It prints
a line when all run, and ends with its standard input. With a policy it publishes their flags, as
pvlock's KVM engine does, and with `lie` it keeps those of the VCPUs that halt at 0.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import sys
import threading
import time

from pvlock.abi import PREEMPTED_OFFSET, STRUCTURE_STRIDE, Policy
from pvlock.engines.kvm.publisher import Publisher

CREATE_VM, GET_VCPU_MMAP_SIZE, CREATE_VCPU, RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
CREATE_IRQCHIP, SET_MP_STATE = 0xAE60, 0x4004AE99
SET_USER_MEMORY_REGION = 0x4020AE46
GET_SREGS, SET_SREGS, SET_REGS = 0x8138AE83, 0x4138AE84, 0x4090AE82
CODE = 0x1000
LOOP = b"\xeb\xfe"
"""jmp to itself."""
HALT = b"\xf4\xeb\xfd"
"""hlt, and again: the VCPU blocks inside KVM, as it has no interrupt to wait for."""
SIZE = 0x10000


class Vcpu:
    def __init__(self, kvm: int, vm: int, number: int, entry: int) -> None:
        self.number = number
        self.fd = fcntl.ioctl(vm, CREATE_VCPU, number)
        self.run = mmap.mmap(self.fd, fcntl.ioctl(kvm, GET_VCPU_MMAP_SIZE, 0))
        sregs = bytearray(312)
        fcntl.ioctl(self.fd, GET_SREGS, sregs)
        struct.pack_into("<Q", sregs, 0, 0)  # cs.base
        struct.pack_into("<H", sregs, 12, 0)  # cs.selector
        fcntl.ioctl(self.fd, SET_SREGS, bytes(sregs))
        fcntl.ioctl(self.fd, SET_MP_STATE, struct.pack("<I", 0))  # RUNNABLE
        regs = bytearray(144)
        struct.pack_into("<2Q", regs, 128, entry, 2)
        fcntl.ioctl(self.fd, SET_REGS, bytes(regs))

    def main(
        self, cpu: int, name: str, ready: threading.Barrier, publisher: Publisher | None
    ) -> None:
        libc = ctypes.CDLL(None)
        libc.prctl(15, name.encode(), 0, 0, 0)
        os.sched_setaffinity(0, {cpu})
        if publisher is not None:
            publisher.add_current_thread(self.number)
        ready.wait()
        # Through ctypes, as Python's own ioctl() would hold its lock.
        libc.ioctl(self.fd, RUN, 0)


def lie(publisher: Publisher, vcpus: range) -> None:
    """Say for ever that these VCPUs are not preempted."""
    while True:
        for number in vcpus:
            publisher.buffer[number * STRUCTURE_STRIDE + PREEMPTED_OFFSET] = 0
        time.sleep(0.001)


def main(spin: int, halt: int, cpu: int, policy: str = "", lies: str = "") -> None:
    publisher = Publisher(spin + halt, Policy(policy)) if policy else None
    kvm = os.open("/dev/kvm", os.O_RDWR)
    vm = fcntl.ioctl(kvm, CREATE_VM, 0)
    fcntl.ioctl(vm, CREATE_IRQCHIP, 0)
    memory = mmap.mmap(-1, SIZE)
    memory[CODE : CODE + len(LOOP)] = LOOP
    memory[CODE + 16 : CODE + 16 + len(HALT)] = HALT
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(vm, SET_USER_MEMORY_REGION, struct.pack("<2I3Q", 0, 0, 0, SIZE, address))
    ready = threading.Barrier(spin + halt + 1)
    for number in range(spin + halt):
        vcpu = Vcpu(kvm, vm, number, CODE if number < spin else CODE + 16)
        arguments = (cpu, f"guest {number}", ready, publisher)
        threading.Thread(target=vcpu.main, args=arguments, daemon=True).start()
    ready.wait()
    print("running", flush=True)
    if publisher is not None and lies:
        threading.Thread(
            target=lie, args=(publisher, range(spin, spin + halt)), daemon=True
        ).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
