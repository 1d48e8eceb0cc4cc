"""Kernel functions that BPF programs may call (kfuncs), and the first release of each.

They have no number: a program names them by their BTF id. These are the ones that collectors, network programs and their libraries call.
Those of a scheduler, a queueing discipline, HID and one congestion control are left out. The release is that of the commit which added the
function to a set of kfuncs. tests/guest/test_first_releases.py asks booted kernels on either side.
"""

from __future__ import annotations

from collections.abc import Mapping

from .fact import Fact, Version

_GROUPS: tuple[tuple[Version, str], ...] = (
    # e78aea8b2170 (bpf: tcp: Put some tcp cong functions in allowlist for bpf-tcp-cc)
    ((5, 13), "tcp_reno_ssthresh tcp_reno_cong_avoid tcp_reno_undo_cwnd tcp_slow_start tcp_cong_avoid_ai"),
    ((5, 18), "bpf_xdp_ct_lookup bpf_skb_ct_lookup bpf_ct_release"),  # b4c2b9593a1c
    # d7e79c97c00c, 0b3892364431, ef69aa3a986e
    ((6, 0), "bpf_xdp_ct_alloc bpf_skb_ct_alloc bpf_ct_insert_entry bpf_ct_set_timeout bpf_ct_change_timeout"),
    ((6, 0), "bpf_ct_set_status bpf_ct_change_status"),
    # f3cf4134c5c6, 865b0566d8f1, a319185be9f5, 0fabd2aa199f, 133790596406
    ((6, 1), "bpf_lookup_user_key bpf_lookup_system_key bpf_key_put bpf_verify_pkcs7_signature"),
    ((6, 1), "cgroup_rstat_updated cgroup_rstat_flush bpf_ct_set_nat_info crash_kexec"),
    # 958cf2e273f0, ac9f06050a35, 8cab76ec6349, 3f00c5239344, 3f0e6f2b41d3
    ((6, 2), "bpf_obj_new_impl bpf_obj_drop_impl bpf_list_pop_front bpf_list_pop_back bpf_task_acquire bpf_task_release"),
    # fda01efc6160, 5ca786707829, fd264ca02094, a35b9af4ec2c, 9bb00b2895cb
    ((6, 2), "bpf_task_from_pid bpf_cgroup_acquire bpf_cgroup_release bpf_cgroup_ancestor bpf_cast_to_kern_ctx bpf_rdonly_cast"),
    ((6, 2), "bpf_rcu_read_lock bpf_rcu_read_unlock"),
    # 516f4d3397c9, bd1279ae8a69, 3d76a4d3d4e5
    ((6, 3), "bpf_cpumask_create bpf_cpumask_release bpf_cpumask_acquire bpf_cpumask_first bpf_cpumask_first_zero"),
    ((6, 3), "bpf_cpumask_set_cpu bpf_cpumask_clear_cpu bpf_cpumask_test_cpu bpf_cpumask_test_and_set_cpu"),
    ((6, 3), "bpf_cpumask_test_and_clear_cpu bpf_cpumask_setall bpf_cpumask_clear bpf_cpumask_and bpf_cpumask_or"),
    ((6, 3), "bpf_cpumask_xor bpf_cpumask_equal bpf_cpumask_intersects bpf_cpumask_subset bpf_cpumask_empty"),
    ((6, 3), "bpf_cpumask_full bpf_cpumask_copy bpf_rbtree_remove bpf_rbtree_first"),
    ((6, 3), "bpf_xdp_metadata_rx_timestamp bpf_xdp_metadata_rx_hash"),
    # 7c50b1cb76ac, d2dcc67df910, 332ea1f697be, b5964b968ac6, 05421aecd4ed, 66e3a13e7c2c, 6018e1f407cc
    ((6, 4), "bpf_refcount_acquire_impl bpf_list_push_front_impl bpf_list_push_back_impl bpf_rbtree_add_impl"),
    ((6, 4), "bpf_cgroup_from_id bpf_dynptr_from_skb bpf_dynptr_from_xdp bpf_dynptr_slice bpf_dynptr_slice_rdwr"),
    ((6, 4), "bpf_iter_num_new bpf_iter_num_next bpf_iter_num_destroy"),
    # 5ba3a7a851e3, f983be917332, b5ad4cdc46c7, 987d0242d189, 540ccf96ddbc, 26662d7347a0, 361f129f3cc1, 4ddbcb886268
    ((6, 5), "bpf_cpumask_first_and bpf_cpumask_any_distribute bpf_cpumask_any_and_distribute bpf_task_under_cgroup"),
    ((6, 5), "bpf_dynptr_adjust bpf_dynptr_is_null bpf_dynptr_is_rdonly bpf_dynptr_size bpf_dynptr_clone bpf_sock_destroy"),
    ((6, 6), "bpf_map_sum_elem_count"),  # 803370d3d375
    # 36d8bdf75a93, fd5d27b70188, 4ac454682158, 9c66dc94b62a, 7251d0905e75, c68a78ffe2cb, 53e380d21441
    ((6, 7), "bpf_percpu_obj_new_impl bpf_percpu_obj_drop_impl bpf_throw bpf_iter_task_vma_new bpf_iter_task_vma_next"),
    ((6, 7), "bpf_iter_task_vma_destroy bpf_iter_css_task_new bpf_iter_css_task_next bpf_iter_css_task_destroy"),
    ((6, 7), "bpf_iter_css_new bpf_iter_css_next bpf_iter_css_destroy bpf_iter_task_new bpf_iter_task_next"),
    ((6, 7), "bpf_iter_task_destroy bpf_sock_addr_set_sun_path"),
    # a6de18f310a5, fe977716b40c, ac9c05e0e453, 67814c00de31, e6795330f88b
    ((6, 8), "bpf_cpumask_weight bpf_task_get_cgroup1 bpf_get_file_xattr bpf_get_fsverity_digest bpf_xdp_metadata_rx_vlan_tag"),
    ((6, 9), "bpf_arena_alloc_pages bpf_arena_free_pages"),  # 317460317a02
    # eb48f6cd41a0, 8e83da9732d9, fc7566ad0a82, 3e1c6f35409f
    ((6, 10), "bpf_wq_init bpf_wq_start bpf_preempt_disable bpf_preempt_enable bpf_crypto_ctx_create bpf_crypto_ctx_release"),
    ((6, 10), "bpf_crypto_ctx_acquire bpf_crypto_decrypt bpf_crypto_encrypt"),
    ((6, 11), "bpf_iter_bits_new bpf_iter_bits_next bpf_iter_bits_destroy"),  # 4665415975b0
    # 65ab5ac4df01, d08e2045ebf0, ac13a4261afe
    ((6, 12), "bpf_copy_from_user_str bpf_get_task_exe_file bpf_put_file bpf_path_d_path bpf_get_dentry_xattr"),
    # 675c3596ff32, 6280cf718db0, a992d7a39791, 2e9a548009c2
    ((6, 13), "bpf_task_from_vpid bpf_send_signal_task bpf_get_kmem_cache bpf_iter_kmem_cache_new bpf_iter_kmem_cache_next"),
    ((6, 13), "bpf_iter_kmem_cache_destroy"),
    ((6, 14), "bpf_local_irq_save bpf_local_irq_restore"),  # c8e2ee1f3df0
    # f0f8a5b58f78, daec295a7094, 950ad93df2fc, 97eb35f3ad42, 56467292794b, 59422464266f
    ((6, 15), "bpf_copy_from_user_task_str bpf_cpumask_populate bpf_res_spin_lock bpf_res_spin_unlock"),
    ((6, 15), "bpf_res_spin_lock_irqsave bpf_res_spin_unlock_irqrestore bpf_set_dentry_xattr bpf_remove_dentry_xattr"),
    ((6, 15), "bpf_dynptr_copy bpf_sock_ops_enable_tx_tstamp"),
    # a319185be9f5 renamed, fb5b480205ba, 9e3e66c553f7, a498ee7576de, 6eab7ac7c5ee
    ((6, 16), "css_rstat_updated css_rstat_flush bpf_list_front bpf_list_back bpf_rbtree_root bpf_rbtree_left bpf_rbtree_right"),
    ((6, 16), "bpf_probe_read_user_dynptr bpf_probe_read_kernel_dynptr bpf_probe_read_user_str_dynptr"),
    ((6, 16), "bpf_probe_read_kernel_str_dynptr bpf_copy_from_user_dynptr bpf_copy_from_user_str_dynptr"),
    ((6, 16), "bpf_copy_from_user_task_dynptr bpf_copy_from_user_task_str_dynptr"),
    ((6, 16), "bpf_iter_dmabuf_new bpf_iter_dmabuf_next bpf_iter_dmabuf_destroy"),
    # 8fc3d2d8b501, 5fc5d8fded57, b95ee9049c93, e91370550f1f
    ((6, 17), "bpf_arena_reserve_pages bpf_dynptr_memset bpf_cgroup_read_xattr bpf_strcmp bpf_strchr bpf_strchrnul bpf_strnchr"),
    ((6, 17), "bpf_strrchr bpf_strlen bpf_strnlen bpf_strspn bpf_strcspn bpf_strstr bpf_strnstr"),
    ((6, 18), "bpf_dynptr_from_skb_meta bpf_xdp_pull_data bpf_strcasecmp"),  # 89d912e494f7, 4dce1a0d7cf3, 19559e844184
)

MODULES: Mapping[str, str] = {
    **dict.fromkeys(
        [
            "bpf_xdp_ct_lookup",
            "bpf_skb_ct_lookup",
            "bpf_ct_release",
            "bpf_xdp_ct_alloc",
            "bpf_skb_ct_alloc",
            "bpf_ct_insert_entry",
            "bpf_ct_set_timeout",
            "bpf_ct_change_timeout",
            "bpf_ct_set_status",
            "bpf_ct_change_status",
        ],
        "nf_conntrack",
    ),
    "bpf_ct_set_nat_info": "nf_nat",
}
"""Kernel functions that are in a module where the kernel is built with that module."""

_CONFIG: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("cgroup_rstat_updated", "cgroup_rstat_flush", "css_rstat_updated", "css_rstat_flush"), ("CGROUPS",)),
    **dict.fromkeys(("bpf_lookup_user_key", "bpf_lookup_system_key", "bpf_key_put"), ("KEYS",)),
    "bpf_verify_pkcs7_signature": ("SYSTEM_DATA_VERIFICATION",),
    "bpf_get_fsverity_digest": ("FS_VERITY",),
    "crash_kexec": ("KEXEC_CORE",),
    **dict.fromkeys(("bpf_iter_dmabuf_new", "bpf_iter_dmabuf_next", "bpf_iter_dmabuf_destroy"), ("DMA_SHARED_BUFFER",)),
    **dict.fromkeys(MODULES, ("NF_CONNTRACK",)),
}
_UNTIL: Mapping[str, Version] = dict.fromkeys(("cgroup_rstat_updated", "cgroup_rstat_flush"), (6, 16))
_FIRST_ON_ARM64: Version = (5, 18)


def _row(name: str, since: Version) -> Fact:
    late = {"arm64": _FIRST_ON_ARM64} if since < _FIRST_ON_ARM64 else {}
    note = "arm64: b5e975d256db (bpf, arm64: Enable kfunc call, 5.18)" if late else ""
    if name in _UNTIL:
        note = "renamed css_rstat_… in 6.16"
    return Fact("kfunc", name, -1, since, ("DEBUG_INFO_BTF", *_CONFIG.get(name, ())), late, _UNTIL.get(name), note)


KFUNCS: tuple[Fact, ...] = tuple(_row(name, since) for since, names in _GROUPS for name in names.split())
