# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom a VCPU whose WFE trapped gives its CPU to: the search of KVM's kvm_vcpu_on_spin().

The search is in virt/kvm/kvm_main.c of Linux, and is the same in 6.1 and 6.12. Two of its rules are
options here, since a host scheduler that is simpler than Linux's does better without them (decision
3). A scheduler says who waits for a CPU; what a yield then does is the scheduler's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class Spinner(Protocol):
    """What the search looks at of a VCPU: scheduler.Task has it."""

    preempted: bool
    in_spin_loop: bool
    eligible: bool


@dataclass(slots=True)
class DirectedYield:
    """The search for whom to yield to.

    With `woken`, a VCPU that has just woken is a candidate too: KVM's `ready` is true for such a
    one as for one that was preempted. With `in_kernel`, which tells whether a VCPU is or was at
    EL1, a VCPU that spins at EL1 passes over those that were preempted at EL0
    (`yield_to_kernel_mode`, kvm_arch_vcpu_preempted_in_kernel()). It does not pass over those that
    have just woken.
    """

    woken: bool = False
    in_kernel: Callable[[int], bool] | None = None
    boosted: int = -1
    """The VCPU that was yielded to last, where the next search begins (`last_boosted_vcpu`)."""

    def may_get_it(self, task: Spinner) -> bool:
        """Tell whether a VCPU that waits for a CPU is a candidate, whoever spins."""
        return self.woken or task.preempted

    def targets(
        self, spinner: int, waiting: Iterable[int], tasks: Sequence[Spinner]
    ) -> Iterator[int]:
        """Return the VCPUs to try, one after the other, until one takes the CPU.

        To be passed over changes a VCPU: one that was itself in such a trap is so every other time
        (kvm_vcpu_eligible_for_directed_yield()).
        """
        filtered = self.in_kernel is not None and self.in_kernel(spinner)
        candidates = [vcpu for vcpu in waiting if self.may_get_it(tasks[vcpu])]
        for vcpu in sorted(candidates, key=lambda v: (v - self.boosted - 1) % len(tasks)):
            task = tasks[vcpu]
            if filtered and task.preempted and self.in_kernel and not self.in_kernel(vcpu):
                continue
            if task.in_spin_loop:
                task.eligible = not task.eligible
                if task.eligible:
                    continue
            yield vcpu
