/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The maps. Their layouts are in abi.h, their capacities and the folder of their pins come from
 * the agent as defines: SIZE_* and PINS.
 */
#ifndef SLUICE_MAPS_H
#define SLUICE_MAPS_H

#include "abi.h"

#define LPM_FLAGS BPF_F_NO_PREALLOC /* the kernel has no preallocated LPM tries */

BPF_TABLE_PINNED("hash", struct workload_key, struct workload, workloads, SIZE_WORKLOADS,
                 PINS "/workloads");
BPF_TABLE_PINNED("hash", struct address, struct local_addr, local_addrs, SIZE_LOCAL_ADDRS,
                 PINS "/local_addrs");
BPF_TABLE_PINNED("lpm_trie", struct identity_key, struct identity_value, identities,
                 SIZE_IDENTITIES, PINS "/identities", LPM_FLAGS);
BPF_TABLE_PINNED("lpm_trie", struct policy_key, struct policy_value, policy, SIZE_POLICY,
                 PINS "/policy", LPM_FLAGS);
BPF_TABLE_PINNED("lru_hash", struct flow_key, struct flow, conntrack, SIZE_CONNTRACK,
                 PINS "/conntrack");
BPF_TABLE_PINNED("lru_hash", struct fragment_key, struct fragment, fragments, SIZE_FRAGMENTS,
                 PINS "/fragments");
BPF_TABLE_PINNED("hash", struct tenant_key, struct tenant, tenants, SIZE_TENANTS, PINS "/tenants");
BPF_TABLE_PINNED("hash", struct proxy_key, struct proxy, proxies, SIZE_PROXIES, PINS "/proxies");
BPF_TABLE_PINNED("lru_hash", struct proxy_client_key, struct proxy_client, proxy_clients,
                 SIZE_PROXY_CLIENTS, PINS "/proxy_clients");
BPF_TABLE_PINNED("percpu_hash", struct counter_key, struct counter, counters, SIZE_COUNTERS,
                 PINS "/counters");
BPF_TABLE_PINNED("percpu_array", __u32, __u64, stats, STATS_COUNT, PINS "/stats");
BPF_TABLE_PINNED("array", __u32, struct settings, settings, 1, PINS "/settings");

/* BCC cannot pin a ring buffer by its declaration: the agent pins it once it is loaded. */
BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);

#endif
