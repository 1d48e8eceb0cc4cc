"""The verifier's log of kernels that explain a refusal (7.3-rc7), and of those that do not."""

from __future__ import annotations

from kmatrix.guest import verifier_log
from kmatrix.verdict.words import last_words

OLD = """0: R1=ctx() R10=fp0
; SEC("tc") int p(void *ctx) { return bpf_override_return(ctx, 1); } @ h.bpf.c:3
1: (85) call bpf_override_return#58
program of this type cannot use helper bpf_override_return#58
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""
EXPLANATION = """
Verification failed: Policy: Operation is not allowed

Reason:
  The helper bpf_override_return#58 is not allowed: this program type does not allow the helper.

At:
  p @ h.bpf.c:3:48
  Source context:
  >>> 3 | SEC("tc") int p(void *ctx) { return bpf_override_return(ctx, 1); }
        | ^-- error: policy check failed for helper bpf_override_return#58

Suggestion:
  Use a helper allowed for this program type, or move the logic to a compatible program type.

"""
head, _, tail = OLD.partition("processed")
NEW = f"{head}{EXPLANATION}processed{tail}"


def test_an_explained_log_reads_as_one_that_is_not() -> None:
    assert verifier_log.plain(NEW) == OLD
    assert verifier_log.plain(OLD) == OLD
    assert verifier_log.plain("") == ""
    assert verifier_log.lines(NEW)[-1] == "program of this type cannot use helper bpf_override_return#58"
    assert last_words(NEW) == last_words(OLD) == "program of this type cannot use helper bpf_override_return#58"
