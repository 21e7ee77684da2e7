/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Delivery: into a local workload's or a proxy's namespace, or on to the node's stack. Returns
 * what the hook answers to TC.
 */
#ifndef SLUICE_DELIVER_H
#define SLUICE_DELIVER_H

#include <linux/pkt_cls.h>

#include "packet.h"

/* From an ingress hook straight into the namespace behind another veth. */
static __always_inline int into_namespace(struct __sk_buff *skb, __u32 ifindex)
{
	if (skb->pkt_type == PACKET_OTHERHOST_TYPE)
		bpf_skb_change_type(skb, PACKET_HOST_TYPE);
	return bpf_redirect_peer(ifindex, 0);
}

static __always_inline int into_proxy(struct packet *packet)
{
	__u8 mac[6];

	if (packet->hook != TO_WORKLOAD)
		return into_namespace(packet->skb, packet->proxy);
	/* Egress cannot use redirect_peer; another MAC would make it PACKET_OTHERHOST there. */
	__builtin_memcpy(mac, packet->to_proxy->mac, 6);
	bpf_skb_store_bytes(packet->skb, 0, mac, 6, 0);
	return bpf_redirect(packet->proxy, 0);
}

static __always_inline int deliver(struct packet *packet)
{
	__u8 macs[12];

	if (packet->to_proxy)
		return into_proxy(packet);
	if (packet->hook == TO_WORKLOAD || !packet->to_local ||
	    packet->to_local->ifindex == packet->skb->ifindex)
		return TC_ACT_OK;
	__builtin_memcpy(macs, packet->to_local->mac, 6);
	__builtin_memcpy(macs + 6, packet->to_local->node_mac, 6);
	bpf_skb_store_bytes(packet->skb, 0, macs, sizeof(macs), 0);
	return into_namespace(packet->skb, packet->to_local->ifindex);
}

#endif
