# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the time of this host's VCPUs goes, whatever their VMM, and who has their CPUs."""
