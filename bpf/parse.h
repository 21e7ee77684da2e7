/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parsing: Ethernet, then network.h, then transport.h, into one struct packet.
 */
#ifndef SLUICE_PARSE_H
#define SLUICE_PARSE_H

#include <linux/if_ether.h>

#include "network.h"
#include "transport.h"

#define PULL_BYTES 576 /* headers up to here are made linear when they are not */

static __always_inline int parse_headers(struct packet *packet)
{
	struct cursor at = {
		.data = (void *)(long)packet->skb->data,
		.end = (void *)(long)packet->skb->data_end,
		.offset = sizeof(struct ethhdr),
	};
	struct ethhdr *ethernet = at.data;
	int reason;

	if ((void *)(ethernet + 1) > at.end)
		return DROP_TRUNCATED;
	packet->kind = KIND_FLOW;
	packet->fragment_id = 0; /* of an attempt before */
	packet->is_fragment = 0;
	packet->fragment_offset = 0;
	if (packet->skb->vlan_present)
		return DROP_PROTOCOL;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		reason = parse_ipv4(packet, &at);
	else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		reason = parse_ipv6(packet, &at);
	else if (ethernet->h_proto == bpf_htons(ETH_P_ARP))
		return parse_arp(packet, &at);
	else
		return DROP_PROTOCOL;
	return reason ? reason : parse_transport(packet, &at);
}

/* Headers that lie in the packet's pages are made linear, and then tried once more. */
static __always_inline int parse_pulling(struct packet *packet)
{
	int reason = DROP_TRUNCATED;

	for (int attempt = 0; attempt < 2; attempt++) {
		__u32 linear = packet->skb->data_end - packet->skb->data;
		__u32 length = packet->skb->len;

		reason = parse_headers(packet);
		if (reason != DROP_TRUNCATED || linear >= length || linear >= PULL_BYTES)
			return reason;
		if (bpf_skb_pull_data(packet->skb, length < PULL_BYTES ? length : PULL_BYTES))
			return reason;
	}
	return reason;
}

static __always_inline int parse(struct packet *packet)
{
	int reason = parse_pulling(packet);

	if (reason || packet->is_ipv6 || packet->kind == KIND_ARP)
		return reason;
	return check_options(packet);
}

#endif
