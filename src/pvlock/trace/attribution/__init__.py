# SPDX-License-Identifier: GPL-2.0-or-later
"""What the waiting was for: every nanosecond of every wait is put down to one thing.

At each instant of a wait the first of these that holds decides (docs/explain.md has examples):

1. The waiter could run and has no CPU, or is blocked without having gone to sleep for the lock: the
   time is its own. A waiter that sleeps for the lock is waiting, as one that spins is.
2. Nobody can say who owned the lock, because events are missing: unknown.
3. An owner of the lock is off its CPU: preempted before blocked. Readers are several owners; the
   one that has been off its CPU for longest counts.
4. The head of the queue that the waiter is in is off its CPU, and the lock has come free since it
   became the head: preempted or blocked.
5. An owner runs.
6. Nobody has the lock, or it has been granted to the waiter, which is on its way.

If the VCPU found in 3 or 5 itself waits for another lock, awake or asleep, the same question is
asked for that lock, and so on: the time is put down to the VCPU at the end of the chain. A wait
inside a wait counts in both, and once in all totals over locks. Everything is in whole ns, and the
parts of a wait add up to it exactly.

Words, in the order in which the modules make the things that they name
-----------------------------------------------------------------------

position   The number of an event in the table of events. An interval [first, last) is a pair of
           positions: it begins at the time of one event and ends at the time of the other. The
           position after the last event is the end of the run.
gap        An interval in which events of a VCPU were lost.                            gaps.py
history    The CONTENDED, ACQUIRED and RELEASED events of one VCPU with one lock.      histories.py
wait       The interval from a VCPU's CONTENDED to its ACQUIRED.                       waits.py
stage      The part of a wait between two CONTENDED, or from the last one to the end.  waits.py
           A guest records CONTENDED again when its place in the queue has changed.
grant      The event that makes a waiter the owner before it runs to ACQUIRED.         grants.py
hold       The interval in which a VCPU owns a lock.                                   holds.py
doubt      An interval in which nobody can say whether a VCPU owns a lock.             holds.py
pairing    The waits and the holds of a table.                                         pairing.py
place      The interval in which a VCPU stands in the queue of a lock.                 queues.py
head       The place in a queue that came first, of those that have not ended.         queues.py
piece      An interval of a VCPU's life in which it is in one state (runs, preempted,  lives.py
           blocked) and waits for one view, or for none.
view       What stands between a waiter and a lock. Each lock has two: its owners      lives.py
           alone, and its owners and the head of its queue.
claim      "Until then, this view cannot be had because of this VCPU."                 claims.py
segment    An interval of a view in which one claim counts, or none.                   blame.py
link       A VCPU that answers for a view waits for another view itself. Links in a    blame.py
           row are a chain.
stretch    Where a piece that waits for a view overlaps a segment of that view. All    ledger.py
           of it is put down to one Part and one VCPU.
delay      Stretches of one wait without a break between, all put down to one absence  ledger.py
           of one VCPU from its CPU.

An example
----------

Three VCPUs, one lock, one preemption. VCPU 0 owns the lock, VCPU 1 waits for it, and VCPU 2 waits
behind VCPU 1. VCPU 1 is preempted; so the lock comes free and nobody takes it.

    position  ns  VCPU  event
           0   0     0  SCHED_IN
           1   0     1  SCHED_IN
           2   0     2  SCHED_IN
           3   5     0  ACQUIRED
           4  10     1  CONTENDED
           5  15     2  CONTENDED behind VCPU 1
           6  20     1  PREEMPTED
           7  25     0  RELEASED
           8  45     1  SCHED_IN
           9  48     1  ACQUIRED
          10  55     1  RELEASED
          11  58     2  ACQUIRED
          12  65     2  RELEASED
          13  70        the run ends

A character is 1 ns. A VCPU owns the lock (=), waits for it on a CPU (?), runs otherwise (.), or is
preempted (x):

    ns        0         10        20        30        40        50        60        70
    VCPU 0    .....====================.............................................
    VCPU 1    ..........??????????xxxxxxxxxxxxxxxxxxxxxxxxx???=======...............
    VCPU 2    ...............?????????????????????????????????????????===....

"""

from pvlock.trace.attribution.analysis import Attribution, attribute
from pvlock.trace.attribution.ledger import Delays, Waits
from pvlock.trace.attribution.part import OFF_CPU, Part

__all__ = ["OFF_CPU", "Attribution", "Delays", "Part", "Waits", "attribute"]
