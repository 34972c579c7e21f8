# SPDX-License-Identifier: GPL-2.0-or-later
"""The tasks and locks of a Linux guest, as its own, unmodified kernel has them.

`points` says which functions of the kernel are watched, `recorder` collects what the engine sees
there. `tasks` knows which task has which VCPU, `locks` who waits for which lock and who has it.
What they find are `rows`, the events of tasks. `names` says what a lock is called.
"""
