// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sets its GIC up, but leaves out or spoils the one thing that the boot argument `forget` numbers.
 * Then it sends itself an SGI and waits for it.
 */
#include "guest.h"

enum { GICD_CTLR = 0, IGROUPR0 = 0x10080, ISENABLER0 = 0x10100, IPRIORITYR = 0x10400 };

void main(void)
{
	u64 forget = bootarg("forget", 0), interrupt;

	if (forget != 1)
		write32(board.gicd + GICD_CTLR, 1 << 4 | 1 << 1);
	if (forget != 2)
		write32(board.gicr + ISENABLER0, 1 << 1);
	if (forget != 3)
		write32(board.gicr + IGROUPR0, ~0u);
	write32(board.gicr + IPRIORITYR, 0xa0a0a0a0);
	asm volatile("msr s3_0_c12_c12_5, %0\n\tisb" : : "r"(1ul));
	if (forget != 4)
		asm volatile("msr s3_0_c4_c6_0, %0" : : "r"(0xf0ul)); /* ICC_PMR_EL1 */
	if (forget == 5)
		asm volatile("msr s3_0_c4_c6_0, %0" : : "r"(0xa0ul)); /* the SGI has 0xa0 too */
	if (forget != 6)
		asm volatile("msr s3_0_c12_c12_7, %0" : : "r"(1ul)); /* ICC_IGRPEN1_EL1 */
	asm volatile("isb");
	wake(0);
	asm volatile("wfi");
	asm volatile("mrs %0, s3_0_c12_c12_0" : "=r"(interrupt)); /* ICC_IAR1_EL1 */
	print("woken by %lu\n", interrupt);
	system_off();
}
