// SPDX-License-Identifier: GPL-2.0-or-later
/* One VCPU that computes, loads, stores and branches, and asks the hypervisor for nothing. */
#include "guest.h"

enum { WORDS = 4096 };

static u64 words[WORDS];

void main(void)
{
	u64 turns = bootarg("turns", 1000), x = 1;

	for (u64 i = 0; i < turns; i++) {
		x = x * 6364136223846793005ul + 1442695040888963407ul;
		u64 *w = &words[x >> 52];
		if (*w & 1)
			*w += x >> 32;
		else
			*w ^= x;
	}
	system_off(); /* the first exit */
}
