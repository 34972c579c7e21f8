// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The structures that vcpu.py restates, so that check_layout() in vcpu.py can compare them when a
 * worker starts.
 */
#include "emulator.h"

struct field {
	const char *name;	/* STRUCT.FIELD, or STRUCT; NULL ends the table */
	uint32_t offset, size;
};

#define WHOLE(s) { #s, 0, sizeof(struct s) }
#define FIELD(s, f) { #s "." #f, offsetof(struct s, f), sizeof(((struct s *)0)->f) }

EXPORT const struct field *struct_layout(void)
{
	static const struct field fields[] = {
		WHOLE(timer), FIELD(timer, ctl), FIELD(timer, cval),
		WHOLE(tlbi), FIELD(tlbi, value), FIELD(tlbi, reg),
		WHOLE(vcpu), FIELD(vcpu, time), FIELD(vcpu, stop), FIELD(vcpu, instructions),
		FIELD(vcpu, pc), FIELD(vcpu, block), FIELD(vcpu, flags), FIELD(vcpu, tag),
		FIELD(vcpu, line), FIELD(vcpu, exit), FIELD(vcpu, env), FIELD(vcpu, cpu),
		FIELD(vcpu, vm), FIELD(vcpu, error), FIELD(vcpu, esr), FIELD(vcpu, far),
		FIELD(vcpu, ipa), FIELD(vcpu, mpidr), FIELD(vcpu, index), FIELD(vcpu, big_endian),
		FIELD(vcpu, fault_pc), FIELD(vcpu, fault_far), FIELD(vcpu, fault_esr),
		FIELD(vcpu, asleep), FIELD(vcpu, trap_wfe), FIELD(vcpu, event), FIELD(vcpu, flush),
		FIELD(vcpu, waiting), FIELD(vcpu, timer), FIELD(vcpu, limit),
		FIELD(vcpu, sample_at), FIELD(vcpu, event_since),
		FIELD(vcpu, monitored), FIELD(vcpu, exclusive), FIELD(vcpu, queued),
		FIELD(vcpu, tlbi), FIELD(vcpu, code_pages), FIELD(vcpu, pages), FIELD(vcpu, seen),
		WHOLE(cpu), FIELD(cpu, vcpu), FIELD(cpu, now), FIELD(cpu, deadline),
		WHOLE(slot), FIELD(slot, ipa), FIELD(slot, size), FIELD(slot, host),
		FIELD(slot, readonly), WHOLE(vm), FIELD(vm, uc), FIELD(vm, vcpus), FIELD(vm, gic),
		FIELD(vm, slots), FIELD(vm, slot_count), FIELD(vm, count),
		FIELD(vm, can_yield), FIELD(vm, exit_ns), FIELD(vm, exception_ns),
		FIELD(vm, maintenance_ns), FIELD(vm, sysreg_ns), FIELD(vm, wakes), FIELD(vm, pauth),
		FIELD(vm, running), FIELD(vm, timer_due), FIELD(vm, exits), FIELD(vm, watch), FIELD(vm, profile),
		FIELD(vm, code_flushes),
		FIELD(vm, current), FIELD(vm, pristine),
		WHOLE(watch_read), FIELD(watch_read, offset), FIELD(watch_read, base),
		FIELD(watch_read, size), FIELD(watch_read, reserved),
		WHOLE(watch_point), FIELD(watch_point, pc), FIELD(watch_point, flags),
		FIELD(watch_point, word_size), FIELD(watch_point, word_mask),
		FIELD(watch_point, reads),
		WHOLE(watch_record), FIELD(watch_record, time), FIELD(watch_record, lock),
		FIELD(watch_record, x), FIELD(watch_record, lr), FIELD(watch_record, task),
		FIELD(watch_record, value), FIELD(watch_record, point), FIELD(watch_record, vcpu),
		FIELD(watch_record, kind), FIELD(watch_record, last),
		WHOLE(spin), FIELD(spin, start), FIELD(spin, end), FIELD(spin, moved),
		FIELD(spin, kind), FIELD(spin, reg), FIELD(spin, owner), FIELD(spin, flags),
		FIELD(spin, readers), WHOLE(profile_setup), FIELD(profile_setup, period),
		FIELD(profile_setup, user_registers), FIELD(profile_setup, queue),
		FIELD(profile_setup, spins), FIELD(profile_setup, spin_count),
		WHOLE(sample), FIELD(sample, time), FIELD(sample, task), FIELD(sample, lr),
		FIELD(sample, owner), FIELD(sample, points), FIELD(sample, vcpu),
		FIELD(sample, awaited), FIELD(sample, awaits), FIELD(sample, flags),
		FIELD(sample, kernel), FIELD(sample, user), FIELD(sample, into),
		{ NULL, 0, 0 },
	};

	return fields;
}
