# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux kernels to boot: where to get one."""
