// SPDX-License-Identifier: GPL-2.0-or-later
/* Makes hypercalls, and prints what each answers, one line a call. */
#include "guest.h"
#include "pvlock.h"

#define HIGH 0xdeadbeef00000000ul

static void call(const char *name, u64 function, u64 argument)
{
	print("%s %lx\n", name, hvc(function, argument, 0, 0));
}

void main(void)
{
	call("arch-features", 0x80000001, PV_LOCK_FEATURES);
	call("arch-features-preempted", 0x80000001, PV_LOCK_PREEMPTED);
	call("arch-features-high", HIGH | 0x80000001, HIGH | PV_LOCK_FEATURES);
	call("arch-features-other", 0x80000001, 0x80008000);
	call("features", PV_LOCK_FEATURES, PV_LOCK_PREEMPTED);
	call("features-self", PV_LOCK_FEATURES, PV_LOCK_FEATURES);
	call("features-high", HIGH | PV_LOCK_FEATURES, HIGH | PV_LOCK_PREEMPTED);
	call("features-other", PV_LOCK_FEATURES, 0xC6000022);
	call("features-smc32", PV_LOCK_FEATURES, 0x86000021);
	call("preempted", PV_LOCK_PREEMPTED, 0);
	call("preempted-high", HIGH | PV_LOCK_PREEMPTED, ~0ul);
	call("smc32-features", 0x86000020, PV_LOCK_PREEMPTED);
	call("smc32-preempted", 0x86000021, 0);
	call("unknown", 0xC600003F, 0);
	system_off();
}
