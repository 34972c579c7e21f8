# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads in a Linux guest: run with and without PV-lock, and compared."""
