# SPDX-License-Identifier: GPL-2.0-or-later
"""A wait for a preempted owner, event by event: who held the lock, who waited, who had no CPU."""

from pvlock import Machine
from pvlock.trace.events import Kind
from pvlock.workload import image_of

with Machine(3, 2, pvlock=False, slice_ns=50_000, trap_wfe=False, trace=True,
             bootargs="duration=1000000", engine="emulator") as machine:  # fmt: skip
    machine.load(image_of("ticket", trace=True))
    machine.run(100_000_000)
    events = machine.events()

rows = list(zip(events.time, events.vcpu, events.kind, events.object, strict=True))
owner, place = None, 0
while not (rows[place][2] == Kind.PREEMPTED and rows[place][1] == owner):
    if rows[place][2] in (Kind.ACQUIRED, Kind.RELEASED):
        owner = rows[place][1] if rows[place][2] == Kind.ACQUIRED else None
    place += 1
print(f"{len(events):,} events on {events.pcpus} CPUs; VCPU {owner} is preempted with the lock:")
for time, vcpu, kind, where in rows[place - 3 : place + 9]:
    what = events.name_of(where) if kind >= Kind.CONTENDED else f"CPU {where}"
    print(f"{time:>9} ns  VCPU {vcpu}  {Kind(kind).name.lower():<10}{what}")
