# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces: who was on which CPU, and who waited for which lock, on one clock.

- events: the table of events of one run.
- recorder, rings: where the events come from, the engine and the guest.
- attribution: what each nanosecond of waiting was for.
- drawing, packets: what a timeline shows, and how that becomes Perfetto's packets.
- table, perfetto: the table of events as bytes, and the trace file.

These modules need NumPy (`pip install 'pvlock[trace]'`), which pvlock itself does not. So the rest
of pvlock imports them only when a trace is asked for.
"""
