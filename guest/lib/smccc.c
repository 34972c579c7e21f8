// SPDX-License-Identifier: GPL-2.0-or-later
/* The SMC calling convention (Arm DEN0028), conduit HVC. */
#include "guest.h"

enum {
	PSCI_VERSION = 0x84000000,
	PSCI_FEATURES = 0x8400000A,
	SMCCC_VERSION = 0x80000000,
	SMCCC_ARCH_FEATURES = 0x80000001,
	VENDOR_HYP_CALL_UID = 0x8600FF01,
};

u64 hvc(u64 function, u64 a1, u64 a2, u64 a3)
{
	register u64 x0 asm("x0") = function;
	register u64 x1 asm("x1") = a1;
	register u64 x2 asm("x2") = a2;
	register u64 x3 asm("x3") = a3;

	asm volatile("hvc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) : : "memory");
	return x0;
}

/* Each step asks whether the guest may take the next one. To stop at any of them means "no". */
bool smccc_has(u32 function)
{
	if ((u32)hvc(PSCI_VERSION, 0, 0, 0) < 0x10000)
		return false;
	if ((int)hvc(PSCI_FEATURES, SMCCC_VERSION, 0, 0) < 0)
		return false;
	if ((int)hvc(SMCCC_VERSION, 0, 0, 0) < 0x10001)
		return false;
	return hvc(SMCCC_ARCH_FEATURES, function, 0, 0) == 0;
}

bool smccc_uid_is(u32 w0, u32 w1, u32 w2, u32 w3)
{
	register u64 x0 asm("x0") = VENDOR_HYP_CALL_UID;
	register u64 x1 asm("x1") = 0;
	register u64 x2 asm("x2") = 0;
	register u64 x3 asm("x3") = 0;

	asm volatile("hvc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) : : "memory");
	return (u32)x0 == w0 && (u32)x1 == w1 && (u32)x2 == w2 && (u32)x3 == w3;
}
