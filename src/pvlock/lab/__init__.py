# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual arm64 host with a stock kernel, on which the KVM engine runs without such hardware."""
