# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts: the twelve things that an instant of waiting can be put down to."""

from enum import IntEnum


class Part(IntEnum):
    """What an instant of a wait is put down to."""

    OWN_PREEMPTED = 0
    """The waiter could run and has no CPU."""
    OWN_BLOCKED = 1
    """The waiter is blocked, and did not go to sleep for the lock."""
    OWNER_RUNNING = 2
    """An owner of the lock runs."""
    OWNER_PREEMPTED = 3
    """An owner of the lock could run and has no CPU."""
    OWNER_BLOCKED = 4
    """An owner of the lock waits for an interrupt, or is off."""
    QUEUE_PREEMPTED = 5
    """The lock came free for the head of the queue, which could run and has no CPU."""
    QUEUE_BLOCKED = 6
    """The lock came free for the head of the queue, which waits for an interrupt, or is off."""
    NO_OWNER = 7
    """Nobody has the lock, or the waiter was granted it and is on its way."""
    UNKNOWN = 8
    """Events are missing, so nobody can say who owned the lock; or VCPUs wait in a circle."""
    OWN_QUEUED = 9
    """The waiter, a task, could run and has no VCPU: the guest's scheduler has others before it."""
    OWNER_QUEUED = 10
    """An owner of the lock, a task, could run and has no VCPU."""
    QUEUE_QUEUED = 11
    """The lock came free for the head of the queue, a task that could run and has no VCPU."""


OF_TASKS = (Part.OWN_QUEUED, Part.OWNER_QUEUED, Part.QUEUE_QUEUED)
"""The parts that only the tasks of a Linux guest have."""
HOST_OFF_CPU = (Part.OWNER_PREEMPTED, Part.QUEUE_PREEMPTED)
"""Of a Linux guest, the parts in which the VCPU of another task is off its CPU."""
OFF_CPU = (Part.OWNER_PREEMPTED, Part.OWNER_BLOCKED, Part.QUEUE_PREEMPTED, Part.QUEUE_BLOCKED)
"""The parts in which another VCPU keeps the waiter waiting and is off its CPU."""
