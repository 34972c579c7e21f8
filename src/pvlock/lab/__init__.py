# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual arm64 host with a stock kernel, to run the KVM engine where there is no such host."""
