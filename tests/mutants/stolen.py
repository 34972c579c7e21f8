# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of PV time."""

from mutants.calls import answers
from mutants.catalogue import Patch, mutant
from pvlock import abi
from pvlock.engines.emulator.vm import Vm
from pvlock.hypercall import Hypercalls

FEATURES, ST = abi.PV_TIME_FEATURES, abi.PV_TIME_ST


@mutant("10.1", "PV_TIME_FEATURES says SUCCESS for every ID", "time-features")
def time_features_for_everything(patch: Patch) -> None:
    def answer(calls: Hypercalls, _vcpu: int, function: int, _argument: int) -> int | None:
        time = calls.stolen_time
        return 0 if function == FEATURES and time is not None and time.enabled else None

    answers(patch, answer)


@mutant("10.2", "every second PV_TIME_ST returns another address", "time-address")
def time_address_moves(patch: Patch) -> None:
    made: dict[int, int] = {}

    def answer(calls: Hypercalls, vcpu: int, function: int, _argument: int) -> int | None:
        ipa = calls.stolen_time.ipa(vcpu) if calls.stolen_time else None
        if function != ST or ipa is None:
            return None
        made[vcpu] = made.get(vcpu, 0) + 1
        return ipa if made[vcpu] % 2 else ipa + 1024

    answers(patch, answer)


@mutant("10.3", "the revision of a stolen-time structure is 1", "time-structure")
def time_revision(patch: Patch) -> None:
    def answer(calls: Hypercalls, vcpu: int, function: int, _argument: int) -> int | None:
        ipa = calls.stolen_time.ipa(vcpu) if calls.stolen_time else None
        if function != ST or ipa is None or calls.stolen_time is None:
            return None
        calls.stolen_time.zero(vcpu)
        calls.stolen_time.memory.write_u64(ipa, 1, "mutant")
        return ipa

    answers(patch, answer)


@mutant("10.3", "stolen time stands still", "time-is-stolen", in_worker=True)
def time_stands_still(patch: Patch) -> None:
    patch(Vm, "stolen_time_at", lambda _self, _vcpu, _ipa: None)


@mutant("10.4", "PV_TIME_FEATURES answers although PV time is off", "no-time")
def time_although_off(patch: Patch) -> None:
    answers(patch, lambda _c, _v, f, a: 0 if (f, a) == (FEATURES, ST) else None)
