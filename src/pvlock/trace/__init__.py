# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces: who was on which CPU, and who waited for which lock, on one clock.

Needs NumPy (`pip install 'pvlock[trace]'`), so nothing else imports it before a trace is asked for.
"""
