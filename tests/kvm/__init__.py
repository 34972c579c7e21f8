# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the KVM engine on a host with KVM."""
