"""Kernel functions for BPF programs: the first release of those that are used most, and the module that those of modules are in.

Unlike helpers they have no numbers, and no header lists them. Source: the kernel's tags (BTF_ID_FLAGS in kernel/bpf/helpers.c and elsewhere).
"""

from __future__ import annotations

from collections.abc import Mapping

from kmatrix.matrix.features import Version

_BY_RELEASE: Mapping[Version, str] = {
    (5, 18): "bpf_xdp_ct_lookup bpf_skb_ct_lookup bpf_ct_release",
    (6, 1): "bpf_lookup_user_key bpf_lookup_system_key bpf_key_put bpf_verify_pkcs7_signature",
    (6, 2): "bpf_task_acquire bpf_task_release bpf_task_from_pid bpf_cgroup_acquire bpf_cgroup_release bpf_cgroup_ancestor "
    "bpf_rcu_read_lock bpf_rcu_read_unlock bpf_cast_to_kern_ctx bpf_rdonly_cast bpf_obj_new_impl bpf_obj_drop_impl",
    (6, 3): "bpf_rbtree_remove bpf_rbtree_first bpf_cpumask_create bpf_cpumask_acquire bpf_cpumask_release "
    "bpf_xdp_metadata_rx_timestamp bpf_xdp_metadata_rx_hash",
    (6, 4): "bpf_iter_num_new bpf_iter_num_next bpf_iter_num_destroy bpf_dynptr_from_skb bpf_dynptr_from_xdp bpf_dynptr_slice "
    "bpf_dynptr_slice_rdwr bpf_cgroup_from_id",
    (6, 5): "bpf_dynptr_adjust bpf_dynptr_is_null bpf_dynptr_is_rdonly bpf_dynptr_size bpf_dynptr_clone bpf_sock_destroy "
    "bpf_task_under_cgroup",
    (6, 7): "bpf_iter_task_new bpf_iter_css_new bpf_iter_css_task_new bpf_iter_task_vma_new bpf_throw bpf_percpu_obj_new_impl",
    (6, 9): "bpf_arena_alloc_pages bpf_arena_free_pages",
    (6, 10): "bpf_preempt_disable bpf_preempt_enable bpf_wq_init bpf_wq_start bpf_wq_set_callback_impl",
    (6, 12): "bpf_get_task_exe_file bpf_put_file bpf_path_d_path bpf_copy_from_user_str",
}
SINCE: Mapping[str, Version] = {name: release for release, names in _BY_RELEASE.items() for name in names.split()}
"""By name."""
MODULES: Mapping[str, str] = dict.fromkeys(("bpf_xdp_ct_lookup", "bpf_skb_ct_lookup", "bpf_ct_release"), "nf_conntrack")
"""The module that has the function, where one has it."""
