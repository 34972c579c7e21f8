# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of `pvlock top`: of its parts, with threads of this host, and with VMs where it has KVM."""
