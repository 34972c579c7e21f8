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

Glossary
--------

In the order in which the modules come to them:

position   The number of an event in the table of events. An interval [first, last) is a pair of
           positions: it begins at the time of one event and ends at the time of the other. The
           position after the last event is the end of the run.
gap        An interval in which events of a VCPU were lost (gaps.py).
history    The CONTENDED, ACQUIRED and RELEASED events of one VCPU with one lock (histories.py).
wait       The interval from a VCPU's first CONTENDED for a lock to its ACQUIRED (waits.py).
stage      The part of a wait from one CONTENDED to the next, or to the end (waits.py). A guest
           records CONTENDED again in a wait when the waiter's place in the queue has changed.
grant      An event by which a VCPU makes another, which waits, the owner of a lock (grants.py).
hold       The interval in which a VCPU owns a lock (holds.py).
doubt      An interval in which nobody can say whether a VCPU owns a lock (holds.py).
place      The interval in which a VCPU stands in the queue of a lock (queues.py).
head       Of the places in a queue that have not ended, the one that came first (queues.py).
view       What stands between a waiter and a lock. Each lock has two: its owners alone, and its
           owners together with the head of its queue (lives.py).
piece      An interval of a VCPU's life in which it is in one state (running, preempted, blocked)
           and waits for one view or for none (lives.py).
claim      An interval in which a view cannot be had because of one VCPU (claims.py).
segment    An interval of a view in which the same claim counts, or none (blame.py).
link       From a VCPU that answers for a view to another view for which it waits itself. Links
           that follow each other make a chain (blame.py).
part       One of the nine things that waiting is put down to (part.py).
stretch    The overlap of a piece that waits for a view with a segment of that view. All of it is
           put down to one part and one VCPU (ledger.py).
delay      Stretches of one wait, without a break between them, that are put down to one absence of
           one VCPU from its CPU (ledger.py).

An example
----------

Three VCPUs, one lock, one preemption. VCPU 0 owns the lock, VCPU 1 waits for it, and VCPU 2 waits
behind VCPU 1. Then VCPU 1 is preempted. VCPU 0 releases the lock, and nobody takes it until VCPU 1
is back. tests/trace/test_attribution_example.py runs these events, and gets all that stands below:

    position  ns  VCPU  event
           0   0     0  SCHED_IN
           1   0     1  SCHED_IN
           2   0     2  SCHED_IN
           3   5     0  ACQUIRED
           4  10     1  CONTENDED
           5  15     2  CONTENDED behind 1
           6  20     1  PREEMPTED
           7  25     0  RELEASED
           8  45     1  SCHED_IN
           9  48     1  ACQUIRED
          10  55     1  RELEASED
          11  58     2  ACQUIRED
          12  65     2  RELEASED
          13  70        (end of the run)

The VCPUs, a character for each ns: a VCPU owns the lock (=), waits for it on a CPU (?), runs
otherwise (.), or is preempted (x). Below them the two views: the VCPU that answers in each segment,
or nobody (-).

    ns      0         10        20        30        40        50        60        70
    VCPU 0  .....====================.............................................
    VCPU 1  ..........??????????xxxxxxxxxxxxxxxxxxxxxxxxx???=======...............
    VCPU 2  ...............???????????????????????????????????????????=======.....
    view 0  -----00000000000000000000-----------------------1111111---------------
    view 1  -----0000000000000000000011111111111111111111---1111111---------------

View 0 is what the owners do, view 1 what they and the head of the queue do. They differ where VCPU
1 has no CPU and the lock is free. VCPU 2 waits for view 1 until it is the head itself, at 48 ns.
What the modules find, with times in place of positions:

    wait     VCPU 1  [10, 48)
    wait     VCPU 2  [15, 58)
    stage    VCPU 1  [10, 48)  behind nobody
    stage    VCPU 2  [15, 58)  behind VCPU 1
    hold     VCPU 0  [5, 25)
    hold     VCPU 1  [48, 55)
    hold     VCPU 2  [58, 65)
    place    VCPU 1  [10, 48)  head from 10 on
    place    VCPU 2  [15, 58)  head from 48 on
    piece    VCPU 0  [0, 70)   RUNNING
    piece    VCPU 1  [0, 10)   RUNNING
    piece    VCPU 1  [10, 20)  RUNNING, waits for view 0
    piece    VCPU 1  [20, 45)  PREEMPTED
    piece    VCPU 1  [45, 48)  RUNNING, waits for view 0
    piece    VCPU 1  [48, 70)  RUNNING
    piece    VCPU 2  [0, 15)   RUNNING
    piece    VCPU 2  [15, 48)  RUNNING, waits for view 1
    piece    VCPU 2  [48, 58)  RUNNING, waits for view 0
    piece    VCPU 2  [58, 70)  RUNNING
    claim    view 0  [5, 25)   VCPU 0: OWNER_RUNNING
    claim    view 0  [48, 55)  VCPU 1: OWNER_RUNNING
    claim    view 1  [5, 25)   VCPU 0: OWNER_RUNNING
    claim    view 1  [25, 45)  VCPU 1: QUEUE_PREEMPTED
    claim    view 1  [48, 55)  VCPU 1: OWNER_RUNNING
    segment  view 0  [0, 5)    NO_OWNER
    segment  view 0  [5, 25)   OWNER_RUNNING, VCPU 0
    segment  view 0  [25, 48)  NO_OWNER
    segment  view 0  [48, 55)  OWNER_RUNNING, VCPU 1
    segment  view 0  [55, 70)  NO_OWNER
    segment  view 1  [0, 5)    NO_OWNER
    segment  view 1  [5, 25)   OWNER_RUNNING, VCPU 0
    segment  view 1  [25, 45)  QUEUE_PREEMPTED, VCPU 1
    segment  view 1  [45, 48)  NO_OWNER
    segment  view 1  [48, 55)  OWNER_RUNNING, VCPU 1
    segment  view 1  [55, 70)  NO_OWNER
    stretch  VCPU 1  [10, 20)  OWNER_RUNNING, VCPU 0
    stretch  VCPU 1  [45, 48)  NO_OWNER
    stretch  VCPU 2  [15, 25)  OWNER_RUNNING, VCPU 0
    stretch  VCPU 2  [25, 45)  QUEUE_PREEMPTED, VCPU 1
    stretch  VCPU 2  [45, 48)  NO_OWNER
    stretch  VCPU 2  [48, 55)  OWNER_RUNNING, VCPU 1
    stretch  VCPU 2  [55, 58)  NO_OWNER
    delay    VCPU 2  [25, 45)  QUEUE_PREEMPTED, VCPU 1, since event 6

Wait by wait that makes:

    parts    VCPU 1  38 ns: OWN_PREEMPTED 25, OWNER_RUNNING 10, NO_OWNER 3
    parts    VCPU 2  43 ns: OWNER_RUNNING 17, QUEUE_PREEMPTED 20, NO_OWNER 6

So the preemption of VCPU 1, event 6, cost VCPU 2 20 ns. The 25 ns that VCPU 1 itself lost by it are
its own time, and no cost to others.
"""

from pvlock.trace.attribution.analysis import Attribution, attribute
from pvlock.trace.attribution.ledger import Delays, Waits
from pvlock.trace.attribution.part import HOST_OFF_CPU, OF_TASKS, OFF_CPU, Part

__all__ = [
    "HOST_OFF_CPU",
    "OFF_CPU",
    "OF_TASKS",
    "Attribution",
    "Delays",
    "Part",
    "Waits",
    "attribute",
]
