/* SPDX-License-Identifier: GPL-2.0-or-later OR MIT */
/*
 * The PV-lock interface for KVM/arm64, guest side: numbers and layout. Any guest may include this.
 */
#ifndef PVLOCK_H
#define PVLOCK_H

/* Function IDs: fast calls, SMC64, vendor-specific hypervisor service, by HVC. */
#define PV_LOCK_FEATURES 0xC6000020
#define PV_LOCK_PREEMPTED 0xC6000021

/* What the call-UID function of a pvlock machine returns in W0 to W3. */
#define PVLOCK_UID 0x14a49296, 0x464610c1, 0xff0e7d83, 0x77cd02aa

/* In the device tree, a child of /reserved-memory: the region that holds the structures. */
#define PVLOCK_COMPATIBLE "pvlock,preempted-v1"

#ifndef __ASSEMBLER__
/*
 * Each VCPU has one, 64-byte aligned and read-only to the guest. `preempted` is little-endian: 0
 * while the VCPU is on a CPU, 1 once the hypervisor has taken it off. Map the structure as Normal
 * memory, write-back, inner shareable.
 *
 * Never wait for a change of `preempted` by WFE alone: nothing would wake the waiter.
 */
struct pvlock_vcpu_state {
	unsigned long long preempted;
	unsigned char padding[56];
};
#endif

#endif
