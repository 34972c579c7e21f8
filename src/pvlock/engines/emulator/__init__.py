# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator: an arm64 machine in virtual time, on Unicorn, in a process of its own."""
