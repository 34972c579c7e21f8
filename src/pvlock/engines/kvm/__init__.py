# SPDX-License-Identifier: GPL-2.0-or-later
"""The KVM engine: real arm64 VCPUs on an unpatched host."""
