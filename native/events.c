// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The event register, and waiting for it in WFE (Arm ARM, "Wait for Event").
 *
 * It is set by SEV and SEVL, by exception returns, the hypervisor's included, by the event stream
 * of the counter, and when the monitor that an exclusive load armed is lost. QEMU has no global
 * monitor. Ours is lost when the memory no longer holds the value that was loaded, looked at when
 * the wait begins and at the end of each quantum. So a store of the same value is not seen, nor is
 * one that was undone within a quantum.
 */
#include "qemu.h"

#define CNTKCTL_EVNTEN (1u << 2)
#define CNTKCTL_EVNTDIR (1u << 3)
#define NEVER (1ull << 62)

/* The next time after `time` at which the event stream has an event, in ns. */
uint64_t next_event(const struct vcpu *v, uint64_t time)
{
	uint64_t control = env64(v, ENV_CNTKCTL_EL1), half, period;

	if (!(control & CNTKCTL_EVNTEN))
		return NEVER;
	/* The chosen bit of the counter becomes one (EVNTDIR: zero). */
	half = 1ull << (control >> 4 & 15);
	period = 2 * half;
	if (control & CNTKCTL_EVNTDIR)
		half = 0;
	return (time + period - half) / period * period + half;
}

static uint64_t loaded(const void *address, uint32_t size)
{
	uint64_t value = 0;

	memcpy(&value, address, size);
	return value;
}

static bool monitor_lost(struct vcpu *v)
{
	if (!v->monitored ||
	    loaded(v->monitored, v->exclusive) == env64(v, ENV_EXCLUSIVE_VALUE))
		return false;
	set_env64(v, ENV_EXCLUSIVE_ADDRESS, ~0ull);
	return true;
}

static void watch_monitor(struct vcpu *v)
{
	uint64_t address = env64(v, ENV_EXCLUSIVE_ADDRESS);

	v->monitored = NULL;
	if (address != ~0ull && v->exclusive <= 8 && !(address & (v->exclusive - 1)))
		v->monitored = host_address(v, address, MMU_LOAD);
}

static void clear(struct vcpu *v, uint64_t time)
{
	v->event = 0;
	v->event_since = time;
}

/* Whether WFE finds the event register set, and clears it. */
bool event_pending(struct vcpu *v)
{
	watch_monitor(v);
	if (!v->event && next_event(v, v->event_since) > v->time && !monitor_lost(v))
		return false;
	clear(v, v->time);
	return true;
}

/* Let the VCPU wait in the WFE before the block that was about to begin. */
bool wait_for_event(struct vcpu *v)
{
	if (v->line && interrupt_due(v))
		return false;
	v->event_since = v->time;
	v->waiting = 1;
	v->exit = EXIT_EDGE;
	return true;
}

/* Whether a VCPU that waits in WFE goes on, at `time`. */
bool wait_is_over(struct vcpu *v, uint64_t time)
{
	if (v->event || next_event(v, v->event_since) <= time || monitor_lost(v))
		clear(v, time);
	else if (!v->line || !interrupt_due(v))
		return false;
	v->waiting = 0;
	return true;
}

void send_event(struct vm *vm)
{
	for (uint32_t i = 0; i < vm->count; i++)
		vm->vcpus[i]->event = 1;
}
