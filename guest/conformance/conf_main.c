// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Selects and runs the cases, and reports them in TAP 14: one line for each, and its evidence below
 * it in YAML. Boot arguments: cases=GLOB,!GLOB,... profile=document|series|pvlock
 * policy=scheduled-out|preempted observe=MS strict=1 watch=NS probe=1.
 */
#include "conf.h"
#include "cases.h"

static const struct test {
	const char *clause, *tag, *name;
	u32 needs;
	void (*run)(void);
} tests[] = {
#define TEST(clause, tag, name, needs, function, what) { clause, tag, name, needs, function },
	CASES(TEST)
};

/* pvlock.conformance.cases finds this list in the binary by its first line. */
__attribute__((used)) const char conf_catalogue[] = "pvlock conformance cases\n"
#define LINE(clause, tag, name, needs, function, what) \
	clause "\t" tag "\t" name "\t" #needs "\t" what "\n"
	CASES(LINE);

enum verdict { OK, NOT_OK, SKIPPED };

static enum verdict verdict;
static const char *reason;
static u32 count[3];
static char selection[MAX_BOOTARGS], profile[16];

void conf_fail(const char *why)
{
	if (verdict != NOT_OK)
		reason = why;
	verdict = NOT_OK;
}

void conf_skip(const char *why)
{
	if (verdict == OK)
		verdict = SKIPPED, reason = why;
}

void conf_expect(const char *what, u64 value, u64 wanted)
{
	conf_note("%s: 0x%lx\n", what, value);
	if (value == wanted)
		return;
	conf_note("%s-expected: 0x%lx\n", what, wanted);
	conf_fail(value == UNDEFINED ? "the call is an undefined instruction" : what);
}

void conf_expect_true(const char *what, bool value)
{
	if (!value)
		conf_fail(what);
}

/* `*` stands for any characters, `?` for one; the pattern ends at a comma. */
static bool matches(const char *pattern, const char *text)
{
	for (; *pattern && *pattern != ',' && *pattern != '*'; pattern++, text++)
		if (*pattern != *text && (*pattern != '?' || !*text))
			return false;
	if (*pattern != '*')
		return !*text;
	for (;; text++) {
		if (matches(pattern + 1, text))
			return true;
		if (!*text)
			return false;
	}
}

static bool in_profile(const struct test *t)
{
	bool document = conf_same(profile, "document");

	if (conf_same(t->tag, "pvlock"))
		return !document && !conf_same(profile, "series");
	return !document || !conf_same(t->tag, "series");
}

/* A pattern names cases or clauses. One that begins with ! takes them away again. */
static bool selected(const struct test *t)
{
	bool chosen = selection[0] == '!' || !selection[0];

	for (const char *p = selection; *p;) {
		bool away = *p == '!';

		p += away;
		if (matches(p, t->name) || matches(p, t->clause))
			chosen = !away;
		while (*p && *p++ != ',')
			;
	}
	return chosen && in_profile(t);
}

/* What this machine lacks of a case's needs; NULL if nothing. */
static const char *missing(u32 needs)
{
	if (needs & PVLOCK && conf_found.state == STATE_UNSET)
		return "this VCPU has no structure";
	if (needs & PVLOCK && conf_found.state == STATE_ABSENT)
		return "interface absent";
	if (needs & UNSET && conf_found.state == STATE_PRESENT)
		return "this VCPU has a structure";
	if (needs & UNSET && conf_found.state == STATE_ABSENT)
		return "interface absent";
	if (needs & ABSENT && conf_found.state != STATE_ABSENT)
		return "interface present";
	if (needs & SMCCC && !conf_found.smccc)
		return "no SMCCC 1.1";
	if (needs & TIME && !conf_found.time)
		return "no PV time";
	if (needs & NO_TIME && conf_found.time)
		return "PV time is offered";
	if (needs & NODE && !conf_board.pvlock_node)
		return "no PV-lock node in the device tree";
	if (needs & SMP && conf_board.cpus < 2)
		return "one VCPU";
	if (needs & GIC && !conf_found.wakes)
		return "no GIC that this guest can wake a VCPU with";
	if (needs & WATCH && !conf_bootarg_number("watch", 0))
		return "no boot argument watch=";
	if (needs & (LETTER | SPARING) && conf_policy == POLICY_UNKNOWN)
		return "policy unknown";
	if (needs & LETTER && conf_policy != POLICY_SCHEDULED_OUT)
		return "policy is preempted";
	if (needs & SPARING && conf_policy != POLICY_PREEMPTED)
		return "policy is scheduled-out";
	return NULL;
}

static void report(u32 number, const struct test *t)
{
	const char *evidence = conf_notes_take();

	count[verdict]++;
	conf_print("%sok %u - %s/%s %s", verdict == NOT_OK ? "not " : "", number, t->clause,
		   t->tag, t->name);
	if (verdict == SKIPPED)
		conf_print(" # SKIP %s", reason);
	conf_print("\n");
	if (verdict != NOT_OK && !*evidence)
		return;
	conf_print("  ---\n");
	if (verdict == NOT_OK)
		conf_print("  message: \"%s\"\n", reason);
	while (*evidence) {
		char line[2] = { 0 };

		conf_print("  ");
		do
			line[0] = *evidence, conf_print("%s", line);
		while (*evidence++ != '\n');
	}
	conf_print("  ...\n");
}

static void header(void)
{
	static const char *const conduits[] = { "none", "hvc", "smc" };
	static const char *const states[] = { "absent", "unset", "present" };
	static const char *const steps[] = {
		"PSCI is older than 1.0", "PSCI_FEATURES knows no SMCCC_VERSION",
		"SMCCC is older than 1.1", "ARCH_FEATURES knows no PV_LOCK_FEATURES",
		"PV_LOCK_FEATURES says no", "all 5 steps of the documented order",
	};

	conf_print("# psci: %u.%u, conduit %s, entered at EL%u\n",
		   (u32)(conf_found.psci_version >> 16), (u32)conf_found.psci_version & 0xffff,
		   conduits[conf_board.conduit], conf_board.entry_el);
	conf_print("# machine: %u VCPUs, GICv%u, %s\n", conf_board.cpus, conf_board.gic,
		   conf_board.uart_kind == UART_PL011 ? "PL011" : "16550");
	conf_print("# interface: %s (%s)\n", states[conf_found.state],
		   conf_found.second_way ? "found by the second way in" : steps[conf_found.steps]);
}

static void choose(void)
{
	char text[16];

	/* An argument that is not given stays empty, and selects everything. */
	conf_bootarg("cases", selection, sizeof(selection));
	conf_bootarg("profile", profile, sizeof(profile));
	if (!conf_bootarg("policy", text, sizeof(text)))
		return;
	conf_policy_stated = true;
	if (conf_same(text, "scheduled-out"))
		conf_policy = POLICY_SCHEDULED_OUT;
	else if (conf_same(text, "preempted"))
		conf_policy = POLICY_PREEMPTED;
	else
		conf_policy_stated = false;
}

void main(void)
{
	const char *wake = "not tried", *source = "";
	u32 planned = 0, number = 0;

	conf_console_init();
	conf_print("\nTAP version 14\n# pvlock conformance guest, format 1\n");
	if (!conf_board.dtb)
		conf_bail_out("no device tree", 0);
	if (!conf_board.conduit)
		conf_bail_out("the device tree names no PSCI conduit", 0);
	if (!conf_board.cpus)
		conf_bail_out("the device tree names no CPU", 0);
	/* HVC would go to this guest's own EL2, where there is no code. */
	if (conf_board.entry_el == 2 && conf_board.conduit == CONDUIT_HVC) {
		conf_board.conduit = CONDUIT_NONE;
		conf_bail_out("entered at EL2, but the conduit is hvc", 0);
	}
	choose();
	conf_discover();
	header();
	conf_gic_init(0);
	conf_survey();
	if (conf_found.wakes)
		wake = "an SGI woke VCPU 1 from WFI";
	else if (conf_board.cpus > 1 && conf_board.gic)
		wake = "an SGI did not wake VCPU 1 from WFI";
	conf_print("# wake: %s\n", wake);
	if (conf_policy != POLICY_UNKNOWN)
		source = conf_policy_stated ? " (stated)" : " (inferred)";
	conf_print("# policy: %s%s\n", conf_policy_name(), source);
	for (u32 i = 0; i < LENGTH(tests); i++)
		planned += selected(&tests[i]);
	conf_print("1..%u\n", planned);
	for (u32 i = 0; i < LENGTH(tests); i++) {
		if (!selected(&tests[i]))
			continue;
		verdict = OK;
		reason = missing(tests[i].needs);
		if (reason)
			verdict = SKIPPED;
		else
			tests[i].run();
		report(++number, &tests[i]);
	}
	conf_print("# summary: %u ok, %u not ok, %u skipped\n", count[OK], count[NOT_OK],
		   count[SKIPPED]);
	conf_system_off();
}
